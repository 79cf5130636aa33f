//! SELinux labels of pods and containers: chosen, checked by the kernel, and set on files.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use crate::api::v1::{ContainerConfig, LinuxContainerSecurityContext, PodSandboxConfig};
use crate::container::mounts::HostMount;
use crate::container::relabel;
use crate::containerd::Mount;
use crate::joined::run_blocking;
use crate::lsm::selinux::{Context, Labels, Pair, canonical};
use crate::runtime::{Error, Node, Result};
use crate::sandbox::{Sandbox, Selinux};
use crate::spec;

const OPTIONS: &str = "config.linux.security_context.selinux_options";

impl Node {
    /// The labels of a new pod. Unless its options name a level, it gets one that no other pod has. `None` on a node
    /// without SELinux.
    pub(crate) fn label_pod(&self, config: &PodSandboxConfig) -> Result<Option<Selinux>> {
        let Some(contexts) = &self.host.facts.selinux else { return Ok(None) };
        let level = match spec::selinux_level(config) {
            Some(level) => self.levels.hold(level),
            // The policy has no levels.
            None if contexts.process.level.is_none() => None,
            None => Some(self.levels.choose(|pair| self.is_named(pair))?),
        };
        let chosen = level.as_ref().map(|held| held.level());
        let labels = checked(spec::pod_labels(config, contexts, chosen)?)?;
        Ok(Some(Selinux { labels, level: level.map(Arc::new) }))
    }

    /// Whether the options of any container name this level. Levels of pods need no check: `levels` holds them.
    fn is_named(&self, pair: Pair) -> bool {
        self.store.containers.all().iter().any(|container| {
            let options = security(&container.record.config).and_then(|context| context.selinux_options.as_ref());
            options.is_some_and(|options| Pair::of(&options.level) == Some(pair))
        })
    }

    /// The labels of a container. A pod that was created while SELinux was off has none; then its containers have none
    /// either, since they share its files.
    pub(crate) fn label_container(&self, sandbox: &Sandbox, config: &ContainerConfig) -> Result<Option<Labels>> {
        if self.host.facts.selinux.is_none() {
            return Ok(None);
        }
        let context = security(config);
        let Some(pod) = labels_of_pod(sandbox.record.selinux.as_ref(), context)? else { return Ok(None) };
        let labels = spec::container_labels(context, &pod.labels)?;
        // The pod's labels were checked when the pod was created.
        if spec::has_selinux_options(context) { checked(labels).map(Some) } else { Ok(Some(labels)) }
    }

    /// Labels what a container will see of the node: the volumes that kubelet wants labelled, and the pod's files,
    /// unless they have had that label since the pod was created.
    pub(crate) async fn relabel(&self, sandbox: &Sandbox, labels: &Labels, mounts: &[HostMount]) -> Result<()> {
        relabel::check(mounts)?;
        let label = labels.mount.to_string();
        relabel::trees(relabel::wanted(mounts), label.clone()).await?;
        let as_its_pod = sandbox.record.selinux.as_ref().is_some_and(|pod| pod.labels.mount == labels.mount);
        if as_its_pod { Ok(()) } else { self.label_files(sandbox, label).await }
    }

    /// Labels the pod's own files, but never those that kubelet provides in their place.
    pub(crate) async fn label_files(&self, sandbox: &Sandbox, label: String) -> Result<()> {
        let paths = self.paths(sandbox);
        let labelled = run_blocking(move || paths.label(&label)).await;
        labelled.map_err(|source| Error::Files { id: sandbox.id().to_string(), source })
    }

    /// Labels the files that the image has put into a container's volumes.
    pub(crate) async fn label_volumes(&self, directories: Vec<PathBuf>, spec: &[u8]) -> Result<()> {
        let Some(label) = mount_label(spec) else { return Ok(()) };
        Ok(relabel::trees(directories, label).await?)
    }

    /// Holds the level of a pod that an earlier daemon created.
    pub(crate) fn hold_level(&self, selinux: &mut Option<Selinux>) {
        if let Some(selinux) = selinux {
            let level = selinux.labels.process.level.as_deref();
            selinux.level = level.and_then(|level| self.levels.hold(level)).map(Arc::new);
        }
    }
}

/// The labels that a container's labels are based on; `None` if it gets none, like its pod.
fn labels_of_pod<'pod>(
    pod: Option<&'pod Selinux>,
    context: Option<&LinuxContainerSecurityContext>,
) -> Result<Option<&'pod Selinux>> {
    if pod.is_none() && spec::has_selinux_options(context) {
        let problem = "the sandbox was made while SELinux was off, and has no labels".to_owned();
        return Err(Error::Invalid { field: OPTIONS, problem });
    }
    Ok(pod)
}

fn security(config: &ContainerConfig) -> Option<&LinuxContainerSecurityContext> {
    config.linux.as_ref().and_then(|linux| linux.security_context.as_ref())
}

/// Checks the labels, and returns them as the kernel writes them, which is how files carry them.
fn checked(labels: Labels) -> Result<Labels> {
    let check = |context: &Context| {
        canonical(context).map_err(|source| match source.kind() {
            io::ErrorKind::InvalidInput => {
                Error::Invalid { field: OPTIONS, problem: format!("the node's SELinux policy has no {context}") }
            }
            _ => Error::System { operation: "check SELinux label", path: context.to_string(), source },
        })
    };
    Ok(Labels { process: check(&labels.process)?, mount: check(&labels.mount)? })
}

/// The label of a container's root file system and images, if its spec has one.
pub(crate) fn mount_label(spec: &[u8]) -> Option<String> {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Linux {
        mount_label: Option<String>,
    }
    #[derive(Deserialize)]
    struct Spec {
        linux: Option<Linux>,
    }
    // Checked when the container was created.
    let spec: Spec = serde_json::from_slice(spec).ok()?;
    spec.linux?.mount_label.filter(|label| !label.is_empty())
}

/// Labels all files of a root file system as its spec says, by an option of the mount. A bind mount takes no options:
/// its files keep their labels.
pub(crate) fn label_root(mut rootfs: Vec<Mount>, spec: &[u8]) -> Vec<Mount> {
    if let Some(label) = mount_label(spec) {
        for mount in rootfs.iter_mut().filter(|mount| !matches!(mount.fs_type.as_str(), "bind" | "rbind")) {
            // Quoted because the label may contain commas.
            mount.options.push(format!("context=\"{label}\""));
        }
    }
    rootfs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(fs_type: &str) -> Mount {
        let options = vec!["index=off".to_owned()];
        Mount { fs_type: fs_type.to_owned(), source: "overlay".to_owned(), target: String::new(), options }
    }

    #[test]
    fn a_root_has_its_containers_label() {
        let spec = br#"{"ociVersion":"1.2.1","linux":{"mountLabel":"u:object_r:t:s0:c1,c2","resources":{}}}"#;
        let made = label_root(vec![mount("overlay"), mount("bind")], spec);
        assert_eq!(made[0].options, ["index=off", "context=\"u:object_r:t:s0:c1,c2\""]);
        assert_eq!(made[1].options, ["index=off"]);
    }

    #[test]
    fn options_for_a_pod_without_labels_are_refused() {
        use crate::api::v1::SeLinuxOption;
        let with = |selinux_options| LinuxContainerSecurityContext { selinux_options, ..Default::default() };
        for silent in [None, Some(&with(None))] {
            assert!(labels_of_pod(None, silent).unwrap().is_none());
        }
        let options = with(Some(SeLinuxOption { r#type: "container_t".to_owned(), ..Default::default() }));
        let error = labels_of_pod(None, Some(&options)).unwrap_err();
        let words = "the sandbox was made while SELinux was off, and has no labels";
        assert_eq!(error.to_string(), format!("{OPTIONS}: {words}"));
    }

    #[test]
    fn a_root_without_a_label_is_mounted_as_it_is() {
        for spec in [&br#"{"linux":{"mountLabel":""}}"#[..], br#"{"linux":{}}"#, b"{}", b""] {
            assert_eq!(label_root(vec![mount("overlay")], spec), [mount("overlay")]);
        }
    }
}
