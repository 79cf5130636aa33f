//! rtnetlink requests in the current thread's network namespace.

use std::future::Future;
use std::io;
use std::net::IpAddr;

use futures_util::{StreamExt, TryStreamExt};
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage, AddressScope};
use rtnetlink::{Handle, LinkUnspec};

/// `lo` is the first interface of every namespace: the kernel creates it together with the namespace (net/core/dev.c,
/// `LOOPBACK_IFINDEX`).
const LOOPBACK_INDEX: u32 = 1;

/// Brings `lo` up; the kernel then assigns 127.0.0.1 and ::1 by itself. This is done in-process, because an exec of the
/// loopback plugin costs 7 ms per pod.
pub(super) fn set_loopback_up() -> io::Result<()> {
    with_netlink(|handle| async move {
        let up = LinkUnspec::new_with_index(LOOPBACK_INDEX).up().build();
        handle.link().set(up).execute().await.map_err(error)
    })
}

/// The addresses of one interface whose scope is larger than the link and the host.
pub(super) fn global_addresses(interface: &str) -> io::Result<Vec<IpAddr>> {
    let name = interface.to_owned();
    with_netlink(|handle| async move {
        let mut links = handle.link().get().match_name(name).execute().boxed();
        let link = links.try_next().await.map_err(error)?.ok_or(io::ErrorKind::NotFound)?;
        let all: Vec<AddressMessage> = handle.address().get().execute().try_collect().await.map_err(error)?;
        Ok(all.iter().filter(|message| message.header.index == link.header.index).filter_map(global).collect())
    })
}

fn global(message: &AddressMessage) -> Option<IpAddr> {
    if !matches!(message.header.scope, AddressScope::Universe | AddressScope::Site) {
        return None;
    }
    // On a point-to-point link `Address` is the peer's address and `Local` is ours (rtnetlink(7)).
    let local = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    local.or_else(|| {
        message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Address(address) => Some(*address),
            _ => None,
        })
    })
}

/// Runs `talk` with a netlink socket of this thread, which is in this thread's namespace.
fn with_netlink<T, F>(talk: impl FnOnce(Handle) -> F) -> io::Result<T>
where
    F: Future<Output = io::Result<T>>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::select! {
            answer = talk(handle) => answer,
            () = connection => Err(io::Error::other("the netlink socket was closed")),
        }
    })
}

fn error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
