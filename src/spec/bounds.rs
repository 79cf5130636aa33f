//! Limits on the length or number of values in a request. A field without a limit here is limited by the size of the
//! whole record (`crate::runtime`, record_size.rs); docs/limits.md lists each field. No limit affects what kubelet can
//! send: each is the kernel's own, or many times that of Kubernetes.

use super::Error;
use crate::api::v1::{ContainerConfig, DnsConfig, PodSandboxConfig};

/// Most bytes of a name: Kubernetes allows 253 characters. Names go into CNI's arguments, log lines, metrics and
/// labels.
const NAME: usize = 1024;
/// The kernel's PATH_MAX without its zero byte.
const PATH: usize = 4095;
/// Most bytes of a resolv.conf, which is kept in memory: Kubernetes allows 3 servers and 2,048 characters of search
/// domains.
const DNS: usize = 64 << 10;
/// Most port mappings: every port of three protocols.
const PORTS: usize = 200_000;
/// The kernel's NGROUPS_MAX.
const GROUPS: usize = 65_536;

/// Refuses a pod's config that contains a value that is too long.
///
/// # Errors
/// [`Error::Invalid`] names the field.
pub fn check_sandbox_bounds(config: &PodSandboxConfig) -> Result<(), Error> {
    if let Some(metadata) = &config.metadata {
        name("config.metadata.name", &metadata.name)?;
        name("config.metadata.namespace", &metadata.namespace)?;
        name("config.metadata.uid", &metadata.uid)?;
    }
    path("config.log_directory", &config.log_directory)?;
    dns(config.dns_config.as_ref())?;
    if config.port_mappings.len() > PORTS {
        let problem = format!("{} of them, more than {PORTS}", config.port_mappings.len());
        return Err(Error::invalid("config.port_mappings", problem));
    }
    let Some(linux) = &config.linux else { return Ok(()) };
    path("config.linux.cgroup_parent", &linux.cgroup_parent)?;
    groups(linux.security_context.as_ref().map_or(0, |context| context.supplemental_groups.len()))
}

/// Refuses a container's config that contains a value that is too long. Paths on the host, and what they lead to, are
/// checked with the mounts and devices.
///
/// # Errors
/// [`Error::Invalid`] names the field.
pub fn check_container_bounds(config: &ContainerConfig) -> Result<(), Error> {
    name("config.metadata.name", config.metadata.as_ref().map_or("", |metadata| &metadata.name))?;
    path("config.log_path", &config.log_path)?;
    path("config.working_dir", &config.working_dir)?;
    let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    groups(context.map_or(0, |context| context.supplemental_groups.len()))
}

fn name(field: &str, text: &str) -> Result<(), Error> {
    bytes(field, text.len(), NAME)
}

fn path(field: &str, text: &str) -> Result<(), Error> {
    bytes(field, text.len(), PATH)
}

fn dns(dns: Option<&DnsConfig>) -> Result<(), Error> {
    let all = dns.into_iter().flat_map(|dns| [&dns.servers, &dns.searches, &dns.options]).flatten();
    bytes("config.dns_config", all.map(|text| text.len() + 1).sum(), DNS)
}

fn groups(count: usize) -> Result<(), Error> {
    if count <= GROUPS {
        return Ok(());
    }
    let problem = format!("{count} groups, and the kernel has at most {GROUPS}");
    Err(Error::invalid("config.linux.security_context.supplemental_groups", problem))
}

fn bytes(field: &str, length: usize, most: usize) -> Result<(), Error> {
    if length <= most {
        return Ok(());
    }
    Err(Error::invalid(field, format!("has {length} bytes, more than {most}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::v1::{
        ContainerMetadata, LinuxContainerConfig, LinuxContainerSecurityContext, LinuxPodSandboxConfig,
        LinuxSandboxSecurityContext, PodSandboxMetadata, PortMapping,
    };

    fn pod(edit: impl FnOnce(&mut PodSandboxConfig)) -> Result<(), String> {
        let linux = Some(LinuxPodSandboxConfig::default());
        let mut config =
            PodSandboxConfig { metadata: Some(PodSandboxMetadata::default()), linux, ..Default::default() };
        edit(&mut config);
        check_sandbox_bounds(&config).map_err(|error| error.to_string())
    }

    fn container(edit: impl FnOnce(&mut ContainerConfig)) -> Result<(), String> {
        let mut config = ContainerConfig { metadata: Some(ContainerMetadata::default()), ..Default::default() };
        edit(&mut config);
        check_container_bounds(&config).map_err(|error| error.to_string())
    }

    #[test]
    fn t9_a_name_or_path_that_is_too_long_names_its_field() {
        let long = || "x".repeat(1025);
        let metadata = |config: &mut PodSandboxConfig| config.metadata.take().unwrap();
        let refused = [
            pod(|config| config.metadata = Some(PodSandboxMetadata { name: long(), ..metadata(config) })),
            pod(|config| config.metadata = Some(PodSandboxMetadata { namespace: long(), ..metadata(config) })),
            pod(|config| config.metadata = Some(PodSandboxMetadata { uid: long(), ..metadata(config) })),
            container(|config| config.metadata = Some(ContainerMetadata { name: long(), attempt: 0 })),
        ];
        let names = ["name", "namespace", "uid", "name"];
        for (refused, name) in refused.into_iter().zip(names) {
            assert_eq!(refused, Err(format!("config.metadata.{name}: has 1025 bytes, more than 1024")));
        }
        let path = || "/".repeat(4096);
        let refused = [
            pod(|config| config.log_directory = path()),
            pod(|config| config.linux.as_mut().unwrap().cgroup_parent = path()),
            container(|config| config.log_path = path()),
            container(|config| config.working_dir = path()),
        ];
        let names = ["log_directory", "linux.cgroup_parent", "log_path", "working_dir"];
        for (refused, name) in refused.into_iter().zip(names) {
            assert_eq!(refused, Err(format!("config.{name}: has 4096 bytes, more than 4095")));
        }
    }

    #[test]
    fn what_kubernetes_allows_is_within_all_bounds() {
        let dns = DnsConfig {
            servers: vec!["2001:db8::1".to_owned(); 3],
            searches: vec!["x".repeat(63); 32],
            options: vec!["ndots:5".to_owned(); 100],
        };
        assert_eq!(pod(|config| config.dns_config = Some(dns.clone())), Ok(()));
        assert_eq!(pod(|config| config.metadata.as_mut().unwrap().name = "x".repeat(253)), Ok(()));
        assert_eq!(container(|config| config.log_path = "x".repeat(4095)), Ok(()));
    }

    #[test]
    fn no_pod_has_more_ports_than_there_are() {
        let refused = pod(|config| config.port_mappings = vec![PortMapping::default(); 200_001]);
        assert_eq!(refused, Err("config.port_mappings: 200001 of them, more than 200000".to_owned()));
    }

    #[test]
    fn a_resolver_and_groups_are_bounded_together() {
        let dns = DnsConfig { options: vec!["x".repeat(1023); 65], ..DnsConfig::default() };
        let refused = pod(|config| config.dns_config = Some(dns));
        assert_eq!(refused, Err("config.dns_config: has 66560 bytes, more than 65536".to_owned()));
        let said = "config.linux.security_context.supplemental_groups: 65537 groups, and the kernel has at most 65536";
        let supplemental_groups: Vec<i64> = (0..65_537).collect();
        let context = LinuxSandboxSecurityContext {
            supplemental_groups: supplemental_groups.clone(),
            ..LinuxSandboxSecurityContext::default()
        };
        let refused = pod(|config| config.linux.as_mut().unwrap().security_context = Some(context));
        assert_eq!(refused, Err(said.to_owned()));
        let security_context =
            Some(LinuxContainerSecurityContext { supplemental_groups, ..LinuxContainerSecurityContext::default() });
        let linux = Some(LinuxContainerConfig { security_context, ..LinuxContainerConfig::default() });
        assert_eq!(container(|config| config.linux = linux), Err(said.to_owned()));
    }
}
