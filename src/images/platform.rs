//! Platforms: which images the host can run, and which of several it runs best. The order is containerd's: first the
//! host's own architecture, then the older ones that its processors also support.

use crate::containerd::Platform;

/// The platforms that the host runs, the best first, with the names of Go.
pub(super) fn of_the_host() -> Vec<Platform> {
    runs(match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    })
}

fn runs(architecture: &str) -> Vec<Platform> {
    let all: &[(&str, &str)] = match architecture {
        "amd64" => &[("amd64", ""), ("386", "")],
        "arm64" => &[("arm64", "v8"), ("arm", "v8"), ("arm", "v7"), ("arm", "v6"), ("arm", "v5")],
        "arm" => &[("arm", "v7"), ("arm", "v6"), ("arm", "v5")],
        other => &[(other, "")],
    };
    let platform = |(architecture, variant): &(&str, &str)| Platform {
        os: "linux".to_owned(),
        architecture: (*architecture).to_owned(),
        variant: (*variant).to_owned(),
    };
    all.iter().map(platform).collect()
}

/// How well an image's platform fits a host that runs `host`: 0 is the best, `None` means that it does not run.
/// `host.len()` means the host's architecture, but a variant that not every processor supports.
pub(super) fn rank(image: &Platform, host: &[Platform]) -> Option<usize> {
    // The variant that is meant when none is named.
    let plain = match image.architecture.as_str() {
        "arm" => "v7",
        "arm64" => "v8",
        _ => "",
    };
    let unsaid = image.variant.is_empty() || (image.architecture == "amd64" && image.variant == "v1");
    let variant = if unsaid { plain } else { image.variant.as_str() };
    let same = |one: &Platform| one.os == image.os && one.architecture == image.architecture;
    let exact = host.iter().position(|one| same(one) && one.variant == variant);
    exact.or(host.first().filter(|one| same(one)).map(|_| host.len()))
}

/// Whether a platform is named; an attestation in an index has `unknown/unknown`.
pub(super) fn is_known(platform: &Platform) -> bool {
    [&platform.os, &platform.architecture].iter().all(|part| !matches!(part.as_str(), "" | "unknown"))
}

/// The platform as kubectl and docker write it: `linux/arm64/v8`.
pub(super) fn text(platform: &Platform) -> String {
    let parts = [&platform.os, &platform.architecture, &platform.variant];
    parts.into_iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(ToOwned::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        Platform { os: next(), architecture: next(), variant: next() }
    }

    #[test]
    fn r6_the_hosts_own_platform_fits_best_and_an_older_one_fits() {
        for (host, image, expected) in [
            ("amd64", "linux/amd64", Some(0)),
            ("amd64", "linux/amd64/v1", Some(0)),
            ("amd64", "linux/386", Some(1)),
            ("amd64", "linux/amd64/v3", Some(2)),
            ("amd64", "linux/arm64", None),
            ("amd64", "windows/amd64", None),
            ("amd64", "unknown/unknown", None),
            ("arm64", "linux/arm64", Some(0)),
            ("arm64", "linux/arm64/v8", Some(0)),
            ("arm64", "linux/arm", Some(2)),
            ("arm64", "linux/arm/v6", Some(3)),
            ("arm64", "linux/arm/v9", None),
            ("arm", "linux/arm64", None),
            ("s390x", "linux/s390x", Some(0)),
        ] {
            assert_eq!(rank(&platform(image), &runs(host)), expected, "{image} on {host}");
        }
    }

    #[test]
    fn a_platform_is_written_as_it_is_known() {
        for text_of_it in ["linux/arm64/v8", "linux/386"] {
            assert_eq!(text(&platform(text_of_it)), text_of_it);
            assert!(is_known(&platform(text_of_it)));
        }
        assert!(!is_known(&platform("unknown/unknown")) && !is_known(&platform("")));
    }
}
