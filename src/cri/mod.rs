//! The gRPC edge: the two services of CRI, and our own service for commands. Each method is about three lines that call
//! a verb.
//!
//! Only this module uses the service traits of CRI and tonic's Status. It makes no decisions.

mod admin_service;
mod batches;
mod deadline;
mod exec_sync_reply;
mod image_service;
mod large_requests;
mod log;
mod measure;
mod runtime_service;
mod status;

use std::sync::Arc;

pub use deadline::Deadlines;
pub use large_requests::LargeRequests;
pub use measure::measure;

use crate::admin::v1::admin_server::AdminServer;
use crate::api::v1::image_service_server::ImageServiceServer;
use crate::api::v1::runtime_service_server::RuntimeServiceServer;
use crate::runtime::Node;
use crate::streaming::Streaming;

pub use exec_sync_reply::with_output;

/// Largest message in either direction, in bytes; kubelet has the same limit.
const MESSAGE_LIMIT: usize = 16 << 20;

/// The gRPC services of a node.
#[derive(Clone)]
pub struct Cri {
    node: Arc<Node>,
    streaming: Streaming,
}

impl Cri {
    /// Creates the services of a node. `streaming` provides the URLs for its streams. The server's responses must go
    /// through [`with_output`].
    #[must_use]
    pub fn new(node: Arc<Node>, streaming: Streaming) -> Self {
        Self { node, streaming }
    }

    /// Pontoon's own service, for a tonic server on a socket that only root may use.
    #[must_use]
    pub fn admin_service(&self) -> AdminServer<Self> {
        AdminServer::new(self.clone())
    }

    /// RuntimeService, for a tonic server.
    #[must_use]
    pub fn runtime_service(&self) -> RuntimeServiceServer<Self> {
        RuntimeServiceServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }

    /// ImageService, for a tonic server.
    #[must_use]
    pub fn image_service(&self) -> ImageServiceServer<Self> {
        ImageServiceServer::new(self.clone())
            .max_decoding_message_size(MESSAGE_LIMIT)
            .max_encoding_message_size(MESSAGE_LIMIT)
    }
}
