//! The parts of an image's config that a container is created from.

use oci_spec::image::ImageConfiguration;

/// What an image says about its containers. The author wrote it: it decides what runs in them, and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageConfig {
    /// ENTRYPOINT.
    pub entrypoint: Vec<String>,
    /// CMD.
    pub cmd: Vec<String>,
    /// ENV, as `KEY=value`.
    pub env: Vec<String>,
    /// WORKDIR.
    pub working_dir: String,
    /// USER, as `user[:group]`.
    pub user: String,
    /// VOLUMEs, absolute and without `..`, sorted.
    pub volumes: Vec<String>,
}

impl From<&ImageConfiguration> for ImageConfig {
    fn from(image: &ImageConfiguration) -> Self {
        let config = image.config().clone().unwrap_or_default();
        let mut volumes: Vec<String> = config.volumes().iter().flatten().map(|path| absolute(path)).collect();
        volumes.sort();
        volumes.dedup();
        Self {
            entrypoint: config.entrypoint().clone().unwrap_or_default(),
            cmd: config.cmd().clone().unwrap_or_default(),
            env: config.env().clone().unwrap_or_default(),
            working_dir: config.working_dir().clone().unwrap_or_default(),
            user: config.user().clone().unwrap_or_default(),
            volumes,
        }
    }
}

/// An author may write `data` or `/../data`: both are relative to the root, and no path leads above it.
fn absolute(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_start_at_the_root_and_never_leave_it() {
        let paths = ["data", "/data/", "/../../../../etc", "/a/./b/../c", "/"];
        assert_eq!(paths.map(absolute), ["/data", "/data", "/etc", "/a/c", "/"]);
    }
}
