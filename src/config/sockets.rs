//! The UNIX sockets: that of CRI, that of our own commands, containerd's, and perhaps that of the metrics.

use std::path::{Path, PathBuf};

use super::{Error, File, check};
use crate::telemetry::Endpoint;

/// The most bytes of a socket's path: `sun_path` without its zero byte (unix(7)).
const LONGEST: usize = 107;

pub(super) struct Sockets {
    pub(super) cri: PathBuf,
    pub(super) admin: PathBuf,
    pub(super) containerd: PathBuf,
    pub(super) metrics: Option<Endpoint>,
}

impl Sockets {
    pub(super) fn resolve(file: &File) -> Result<Self, Error> {
        let admin = file.admin_socket.clone().unwrap_or_else(|| file.state.join("admin.sock"));
        let sockets = Self {
            cri: path("socket", &file.socket)?,
            admin: path("admin_socket", &admin)?,
            containerd: path("containerd.address", &file.containerd.address)?,
            metrics: metrics(&file.metrics.address)?,
        };
        sockets.differ()?;
        Ok(sockets)
    }

    /// Each server has a socket of its own.
    fn differ(&self) -> Result<(), Error> {
        let metrics = match &self.metrics {
            Some(Endpoint::Unix(path)) => Some(("metrics.address", path)),
            Some(Endpoint::Loopback(_)) | None => None,
        };
        let all = [("socket", &self.cri), ("admin_socket", &self.admin), ("containerd.address", &self.containerd)];
        let all: Vec<_> = all.into_iter().chain(metrics).collect();
        for (at, (key, path)) in all.iter().enumerate() {
            if let Some((other, _)) = all[..at].iter().find(|(_, other)| other == path) {
                return Err(check::wrong(*key, format!("{} is also {other}", path.display())));
            }
        }
        Ok(())
    }
}

/// The path of a socket. It may be written as `unix:///PATH`, as it is in the configurations of kubelet and crictl.
fn path(key: &str, written: &Path) -> Result<PathBuf, Error> {
    if let Some((scheme, _)) = written.to_str().and_then(|text| text.split_once("://"))
        && scheme != "unix"
    {
        return Err(check::wrong(key, format!("{written:?} is neither an absolute path nor unix:///PATH")));
    }
    let path = written.to_str().and_then(|text| text.strip_prefix("unix://")).map_or(written, Path::new);
    check::path(key, path)?;
    if path.as_os_str().len() > LONGEST {
        let length = path.as_os_str().len();
        let problem = format!("{path:?} has {length} bytes, and a socket's path has at most {LONGEST}");
        return Err(check::wrong(key, problem));
    }
    Ok(path.to_owned())
}

fn metrics(address: &str) -> Result<Option<Endpoint>, Error> {
    const KEY: &str = "metrics.address";
    if address.is_empty() {
        return Ok(None);
    }
    let endpoint = address.parse::<Endpoint>().map_err(|problem| check::wrong(KEY, problem))?;
    match &endpoint {
        // Port 0 means another port at each start, which no configuration of a scraper could name.
        Endpoint::Loopback(address) if address.port() == 0 => Err(check::wrong(KEY, "its port must not be 0")),
        Endpoint::Loopback(_) => Ok(Some(endpoint)),
        Endpoint::Unix(socket) => path(KEY, socket).map(Endpoint::Unix).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_may_be_written_as_kubelet_and_crictl_write_it() {
        for written in ["/run/x.sock", "unix:///run/x.sock"] {
            assert_eq!(path("socket", Path::new(written)).unwrap(), Path::new("/run/x.sock"));
        }
        for written in ["", "x.sock", "unix://x.sock", "unix:/run/x.sock", "tcp://127.0.0.1:1", "npipe:///x", "/a\0b"] {
            let error = path("containerd.address", Path::new(written)).unwrap_err().to_string();
            assert!(error.starts_with("config key containerd.address: "), "{written}: {error}");
        }
    }

    #[test]
    fn a_path_that_no_socket_can_have_is_refused() {
        let of = |length: usize| path("socket", Path::new(&format!("/{}", "x".repeat(length - 1))));
        assert!(of(LONGEST).is_ok());
        let error = of(LONGEST + 1).unwrap_err().to_string();
        assert!(error.contains("has 108 bytes") && error.contains("at most 107"), "{error}");
    }

    #[test]
    fn each_server_has_a_socket_of_its_own() {
        let file = || File { state: "/s".into(), ..File::default() };
        let refused = |file: &File| Sockets::resolve(file).err().map(|error| error.to_string()).unwrap_or_default();
        assert_eq!(refused(&file()), "");
        let mut same = file();
        same.containerd.address = "unix:///run/pontoon/pontoon.sock".into();
        assert_eq!(refused(&same), "config key containerd.address: /run/pontoon/pontoon.sock is also socket");
        let mut same = file();
        same.metrics.address = "unix:///s/admin.sock".to_owned();
        assert_eq!(refused(&same), "config key metrics.address: /s/admin.sock is also admin_socket");
    }

    #[test]
    fn metrics_need_a_fixed_port() {
        assert!(metrics("127.0.0.1:0").unwrap_err().to_string().starts_with("config key metrics.address: "));
        assert!(metrics("127.0.0.1:9560").unwrap().is_some());
    }
}
