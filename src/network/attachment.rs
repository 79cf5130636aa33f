//! The network-related parts of a sandbox's config, in CNI's terms.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::bandwidth::Bandwidth;
use super::error::Error;
use crate::api::v1;
use crate::ids::SandboxId;

/// Capability under which containerd passes a pod's annotations; plugins know this name.
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// Key of the pod's namespace in `CNI_ARGS`.
pub(super) const NAMESPACE_ARG: &str = "K8S_POD_NAMESPACE";

/// A sandbox, and the data that its network needs.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// CNI's container id.
    pub id: SandboxId,
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// The path at which the network namespace is pinned. `None` on a detach when it is gone or no longer a namespace,
    /// so that plugins do not try to enter it.
    pub netns: Option<PathBuf>,
    /// The ports to publish on the host; only those with a host port.
    pub port_mappings: Vec<PortMapping>,
    /// With `None`, the node's resolver stays in place. That is not the same as an empty `Dns`.
    pub dns: Option<Dns>,
    /// The pod's annotations; the bandwidth annotations are parsed on attach.
    pub annotations: HashMap<String, String>,
    /// The sandbox's cgroup parent, for plugins that mark traffic by cgroup.
    pub cgroup_path: Option<String>,
}

/// A port of the sandbox that is published on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// Above 0.
    pub host_port: i32,
    pub container_port: i32,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// Address on the host; empty for all addresses.
    pub host_ip: String,
}

/// The resolver configuration of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    /// Options as in resolv.conf.
    pub options: Vec<String>,
}

impl Attachment {
    /// Extracts the network-related fields from a sandbox's config.
    #[must_use]
    pub fn new(
        id: &SandboxId,
        config: &v1::PodSandboxConfig,
        netns: Option<PathBuf>,
        cgroup_path: Option<String>,
    ) -> Self {
        let metadata = config.metadata.clone().unwrap_or_default();
        Self {
            id: id.clone(),
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            netns,
            port_mappings: config.port_mappings.iter().filter_map(port_mapping).collect(),
            dns: config.dns_config.as_ref().map(|dns| Dns {
                servers: dns.servers.clone(),
                searches: dns.searches.clone(),
                options: dns.options.clone(),
            }),
            annotations: config.annotations.clone().into_iter().collect(),
            cgroup_path: cgroup_path.filter(|path| !path.is_empty()),
        }
    }

    /// Checks whether [`super::Network::attach`] would refuse this because of the sandbox's config, so that the caller
    /// can fail before it creates anything.
    ///
    /// # Errors
    /// [`Error::InvalidField`] and [`Error::Bandwidth`].
    pub fn validate(&self) -> Result<(), Error> {
        self.cni_args()?;
        Bandwidth::from_annotations(&self.annotations)?;
        Ok(())
    }

    /// The pairs of `CNI_ARGS`, with containerd's keys.
    pub(super) fn cni_args(&self) -> Result<Vec<(String, String)>, Error> {
        let pairs = [
            ("IgnoreUnknown", "1", ""),
            (NAMESPACE_ARG, self.namespace.as_str(), "config.metadata.namespace"),
            ("K8S_POD_NAME", self.name.as_str(), "config.metadata.name"),
            ("K8S_POD_INFRA_CONTAINER_ID", self.id.as_str(), "id"),
            ("K8S_POD_UID", self.uid.as_str(), "config.metadata.uid"),
        ];
        let pair = |(key, value, field): (&str, &str, &'static str)| {
            // CNI_ARGS has no quoting: a `;` in a name would add arguments.
            let unfit = |c: char| c == ';' || c == '=' || c.is_control();
            if value.contains(unfit) {
                return Err(Error::InvalidField { field });
            }
            Ok((key.to_owned(), value.to_owned()))
        };
        pairs.into_iter().map(pair).collect()
    }

    /// All capability arguments; each plugin gets those that its config asks for. CRI has no fields for `ips`, `mac`
    /// and the like.
    pub(super) fn capability_args(&self) -> Result<Map<String, Value>, Error> {
        let mut args = Map::new();
        args.insert(ANNOTATIONS.to_owned(), json!(self.annotations));
        if !self.port_mappings.is_empty() {
            let all = self.port_mappings.iter().map(PortMapping::to_json).collect();
            args.insert("portMappings".to_owned(), Value::Array(all));
        }
        if let Some(bandwidth) = Bandwidth::from_annotations(&self.annotations)? {
            args.insert("bandwidth".to_owned(), bandwidth_json(bandwidth));
        }
        if let Some(dns) = &self.dns {
            let dns = json!({ "servers": dns.servers, "searches": dns.searches, "options": dns.options });
            args.insert("dns".to_owned(), dns);
        }
        if let Some(path) = &self.cgroup_path {
            args.insert("cgroupPath".to_owned(), json!(path));
        }
        Ok(args)
    }
}

/// Refuses invalid port numbers, also of ports that are not published, and invalid host addresses of ports that are:
/// portmap takes such an address for IPv6, and publishes nothing on a node without IPv6.
///
/// # Errors
/// [`Error::InvalidPort`] and [`Error::InvalidHostIp`] name the field.
pub fn check_ports(mappings: &[v1::PortMapping]) -> Result<(), Error> {
    for (index, mapping) in mappings.iter().enumerate() {
        // A mapping that is not published may also leave out the sandbox's port.
        let least = i32::from(mapping.host_port > 0);
        for (name, port, least) in
            [("host_port", mapping.host_port, 0), ("container_port", mapping.container_port, least)]
        {
            if !(least..=i32::from(u16::MAX)).contains(&port) {
                return Err(Error::InvalidPort { index, name, port, least });
            }
        }
        let host_ip = mapping.host_ip.as_str();
        if mapping.host_port > 0 && !host_ip.is_empty() && host_ip.parse::<IpAddr>().is_err() {
            return Err(Error::InvalidHostIp { index, host_ip: host_ip.to_owned() });
        }
    }
    Ok(())
}

impl PortMapping {
    fn to_json(&self) -> Value {
        json!({
            "hostPort": self.host_port,
            "containerPort": self.container_port,
            "protocol": self.protocol,
            "hostIP": self.host_ip,
        })
    }
}

/// A host port of 0 means that none is wanted (api.proto, PortMapping.host_port).
fn port_mapping(mapping: &v1::PortMapping) -> Option<PortMapping> {
    let protocol = match mapping.protocol() {
        v1::Protocol::Tcp => "tcp",
        v1::Protocol::Udp => "udp",
        v1::Protocol::Sctp => "sctp",
    };
    (mapping.host_port > 0).then(|| PortMapping {
        host_port: mapping.host_port,
        container_port: mapping.container_port,
        protocol,
        host_ip: mapping.host_ip.clone(),
    })
}

/// The burst is the largest that the plugin accepts, as in containerd: the plugin refuses a rate without a burst.
fn bandwidth_json(bandwidth: Bandwidth) -> Value {
    let mut limits = Map::new();
    for (direction, rate) in [("ingress", bandwidth.ingress), ("egress", bandwidth.egress)] {
        if let Some(rate) = rate {
            limits.insert(format!("{direction}Rate"), json!(rate));
            limits.insert(format!("{direction}Burst"), json!(u32::MAX));
        }
    }
    Value::Object(limits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> v1::PodSandboxConfig {
        let metadata = v1::PodSandboxMetadata {
            name: "web-0".to_owned(),
            namespace: "shop".to_owned(),
            uid: "u-1".to_owned(),
            attempt: 0,
        };
        v1::PodSandboxConfig { metadata: Some(metadata), ..v1::PodSandboxConfig::default() }
    }

    fn attachment(config: &v1::PodSandboxConfig) -> Attachment {
        Attachment::new(&SandboxId::random(), config, None, Some("/kubepods/pod1".to_owned()))
    }

    #[test]
    fn ports_without_a_host_port_are_not_published() {
        let port = |protocol: v1::Protocol, host_port| v1::PortMapping {
            protocol: protocol.into(),
            container_port: 80,
            host_port,
            host_ip: "192.0.2.1".to_owned(),
        };
        let mut config = config();
        config.port_mappings =
            vec![port(v1::Protocol::Tcp, 0), port(v1::Protocol::Sctp, 8080), port(v1::Protocol::Udp, 0)];
        let args = attachment(&config).capability_args().unwrap();
        let expected = json!([{"hostPort": 8080, "containerPort": 80, "protocol": "sctp", "hostIP": "192.0.2.1"}]);
        assert_eq!(args["portMappings"], expected);
    }

    #[test]
    fn what_is_no_port_names_its_field() {
        let check = |host_port, container_port| {
            let mapping = v1::PortMapping { host_port, container_port, ..v1::PortMapping::default() };
            check_ports(&[v1::PortMapping::default(), mapping]).map_err(|error| error.to_string())
        };
        for (host, container) in [(0, 0), (0, 80), (8080, 80), (65_535, 65_535)] {
            assert_eq!(check(host, container), Ok(()));
        }
        let refused = |name: &str, port: i32, least: i32| {
            Err(format!("config.port_mappings[1].{name}: {port} is not between {least} and 65535"))
        };
        assert_eq!(check(-1, 80), refused("host_port", -1, 0));
        assert_eq!(check(65_536, 80), refused("host_port", 65_536, 0));
        assert_eq!(check(0, -1), refused("container_port", -1, 0));
        assert_eq!(check(8080, 0), refused("container_port", 0, 1));
        assert_eq!(check(8080, 70_000), refused("container_port", 70_000, 1));
    }

    #[test]
    fn what_is_no_address_names_its_field() {
        let check = |host_port, host_ip: &str| {
            let mapping =
                v1::PortMapping { host_port, container_port: 80, host_ip: host_ip.to_owned(), ..Default::default() };
            check_ports(&[mapping]).map_err(|error| error.to_string())
        };
        for (port, good) in [(80, ""), (80, "192.0.2.1"), (80, "::1"), (80, "0.0.0.0"), (0, "not published")] {
            assert_eq!(check(port, good), Ok(()), "{good:?}");
        }
        for bad in ["192.0.2.300", "localhost", "[::1]", "192.0.2.1/24", "192.0.2.01", " "] {
            assert_eq!(check(80, bad), Err(format!("config.port_mappings[0].host_ip: {bad:?} is not an IP address")));
        }
    }

    #[test]
    fn capabilities_are_those_that_containerd_passes() {
        let mut config = config();
        config.annotations.insert("kubernetes.io/egress-bandwidth".to_owned(), "1M".to_owned());
        config.dns_config = Some(v1::DnsConfig { servers: vec!["10.0.0.10".to_owned()], ..Default::default() });
        let args = attachment(&config).capability_args().unwrap();
        let expected = json!({
            "io.kubernetes.cri.pod-annotations": {"kubernetes.io/egress-bandwidth": "1M"},
            "bandwidth": {"egressRate": 1_000_000, "egressBurst": u32::MAX},
            "dns": {"servers": ["10.0.0.10"], "searches": [], "options": []},
            "cgroupPath": "/kubepods/pod1",
        });
        assert_eq!(Value::Object(args), expected);
    }

    #[test]
    fn a_name_cannot_add_arguments() {
        let mut config = config();
        let pod = config.metadata.as_mut().unwrap();
        pod.name = "web;IgnoreUnknown=0".to_owned();
        let error = attachment(&config).validate().unwrap_err();
        assert!(error.to_string().starts_with("config.metadata.name: "), "{error}");
    }
}
