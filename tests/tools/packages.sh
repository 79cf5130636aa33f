#!/usr/bin/env bash
# Installs the Debian packages that builds and tests need and that are missing. Updates the package lists only if a package
# is missing.
set -euo pipefail

wanted=(
    # building: containerd-client's protobufs, runc's seccomp
    gcc libc6-dev pkg-config libseccomp-dev protobuf-compiler make git
    # pods: their network, their images, the local registry
    iptables iproute2 procps busybox-static docker-registry skopeo umoci mmdebstrap
    # the scripts
    jq curl ca-certificates util-linux
    "$@"
)

missing() {
    local package
    for package in "${wanted[@]}"; do
        [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) == installed ]] || printf '%s\n' "$package"
    done
}

# Packages such as docker-registry start their service when they are installed, but the tests need those ports. policy-rc.d
# is Debian's way to prevent that. If the administrator has one already, it stays unchanged.
without_services() {
    local policy=/usr/sbin/policy-rc.d
    if [[ -e $policy ]]; then
        "$@"
        return 0
    fi
    # shellcheck disable=SC2064  # expands to the current value
    trap "rm -f $policy" EXIT
    printf '#!/bin/sh\nexit 101\n' >$policy
    chmod 755 $policy
    "$@"
}

mapfile -t packages < <(missing)
[[ ${#packages[@]} -gt 0 ]] || exit 0
echo "packages: installing ${packages[*]}" >&2
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq >&2
without_services apt-get install -y -qq --no-install-recommends "${packages[@]}" >&2
