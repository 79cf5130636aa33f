//! Exec, attach and port-forward: byte streams between a client's HTTP connection and a container.
//!
//! An RPC of CRI asks [`Streaming`] for a URL; kubelet, or crictl, connects to it with SPDY/3.1 or
//! WebSocket. This room knows HTTP, tokens and the two protocols; what a stream is connected to is known
//! to the [`Backend`] alone, which `runtime` implements. It must not name a container's state, containerd
//! or CRI's services.
//!
//! ```text
//! runtime ──url()──► tokens ◄──GET, POST── server ──► spdy | websocket ──► Backend (runtime)
//! ```

pub mod protocol;
pub mod remote_status;
pub mod resize;
mod session;
pub mod spdy;

pub use session::{Attach, Backend, Duplex, Exec, Failure, Gone, Input, PortForward, Sink, Size, Streams};
