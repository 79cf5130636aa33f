//! The parts of an image's config that a container is made of.

use oci_spec::image::ImageConfiguration;

/// What an image says about its containers. It is the author's words: it runs, it never commands.
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
    /// VOLUMEs, sorted.
    pub volumes: Vec<String>,
}

impl From<&ImageConfiguration> for ImageConfig {
    fn from(image: &ImageConfiguration) -> Self {
        let config = image.config().clone().unwrap_or_default();
        let mut volumes = config.volumes().clone().unwrap_or_default();
        volumes.sort();
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
