//! What the sessions of the streaming server are connected to.

use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use crate::ids::SandboxId;
use crate::runtime::Node;
use crate::runtime::streams::attach;
use crate::runtime::streams::exec;
use crate::runtime::streams::port_forward;
use crate::streaming::{Attach, Backend, Duplex, Exec, Failure, Streams};

/// The containers and sandboxes of a node, for the streaming server.
pub struct StreamingBackend(pub Arc<Node>);

impl Backend for StreamingBackend {
    fn exec(&self, request: Exec, streams: Streams) -> BoxFuture<'static, Result<i32, Failure>> {
        exec::exec_session(Arc::clone(&self.0), request, streams).boxed()
    }

    fn attach(&self, request: Attach, streams: Streams) -> BoxFuture<'static, Result<(), Failure>> {
        attach::attach_session(Arc::clone(&self.0), request, streams).boxed()
    }

    fn port_forward(
        &self,
        sandbox: SandboxId,
        port: u16,
        connection: Duplex,
    ) -> BoxFuture<'static, Result<(), Failure>> {
        port_forward::forward(Arc::clone(&self.0), sandbox, port, connection).boxed()
    }
}
