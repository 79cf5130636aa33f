//! The gRPC edge: CRI's two services, and our own for commands, of three-line methods over the verbs.
//!
//! Only this room names CRI's service traits and tonic's Status. It decides nothing.

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

/// Largest message in either direction; kubelet has the same.
const MESSAGE_LIMIT: usize = 16 << 20;

/// CRI v1 over a node.
#[derive(Clone)]
pub struct Cri {
    node: Arc<Node>,
    streaming: Streaming,
}

impl Cri {
    /// Serves a node, whose streams are had from `streaming`. The server's responses must go through
    /// [`with_output`].
    #[must_use]
    pub fn new(node: Arc<Node>, streaming: Streaming) -> Self {
        Self { node, streaming }
    }

    /// Pontoon's own service, for a tonic server on a socket that is root's alone.
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
