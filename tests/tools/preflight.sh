#!/usr/bin/env bash
# Lists everything that `make run` and the tests need and that this machine lacks; exits with 1 if anything is missing.
# Tries the kernel's features instead of reading its configuration. That happens in new namespaces, so no change stays.
set -euo pipefail

problems=()
lacks() { problems+=("$1"); }

need_command() {
    command -v "$1" >/dev/null || lacks "$1: $2"
}

# try EXPLANATION COMMAND...: runs it in new mount and network namespaces, in a tmpfs on /mnt; notes EXPLANATION if it fails.
try() {
    local explanation=$1
    shift
    unshare --mount --net bash -euc 'mount -t tmpfs none /mnt; cd /mnt; '"$*" >/dev/null 2>&1 || lacks "$explanation"
}

check_kernel() {
    unshare --mount --net true 2>/dev/null || { lacks "new mount and network namespaces: refused (in a container? it must be privileged)"; return 0; }
    unshare --pid --uts --ipc --fork true 2>/dev/null || lacks "new pid, uts and ipc namespaces: refused"
    try "overlayfs: cannot be mounted (modprobe overlay)" \
        'mkdir a b c d; mount -t overlay -o lowerdir=a,upperdir=b,workdir=c none d'
    [[ -z $(command -v ip) ]] || {
        try "veth interfaces: cannot be made (modprobe veth)" 'ip link add pt0 type veth peer name pt1'
        try "bridge interfaces: cannot be made (modprobe bridge)" 'ip link add pt0 type bridge'
    }
    [[ -z $(command -v iptables) ]] || {
        try "iptables nat with MASQUERADE and comments: not usable (modprobe iptable_nat xt_MASQUERADE xt_comment)" \
            'iptables -t nat -A POSTROUTING -m comment --comment x -j MASQUERADE'
    }
}

check_cgroups() {
    local controller name
    for controller in cpu memory pids; do
        if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
            grep -qw "$controller" /sys/fs/cgroup/cgroup.controllers || lacks "cgroup v2 controller $controller: not enabled"
        else
            name=$(find /sys/fs/cgroup -maxdepth 1 -name "*$controller*" -print -quit 2>/dev/null)
            [[ -n $name ]] || lacks "cgroup controller $controller: no hierarchy in /sys/fs/cgroup"
        fi
    done
    if [[ ! -e /sys/fs/cgroup/cgroup.controllers && ! -d /sys/fs/cgroup/devices ]]; then
        lacks "cgroup controller devices: no hierarchy in /sys/fs/cgroup"
    fi
}

check_programs() {
    need_command cargo "Rust, the version in rust-toolchain.toml (https://rustup.rs)"
    need_command go "Go 1.26 or newer, builds containerd, runc and crictl (https://go.dev/dl)"
    need_command apt-get "the scripts install packages with it: Debian 12 or newer"
    need_command unshare "package util-linux"
    need_command flock "package util-linux"
    [[ -z $(command -v go) ]] || {
        local version
        version=$(go env GOVERSION)
        printf 'go1.26\n%s\n' "$version" | sort --version-sort --check=quiet || lacks "go: this is $version, 1.26 or newer is needed"
    }
}

if [[ $(uname -s) != Linux ]]; then
    echo "preflight: this is $(uname -s), pods need Linux" >&2
    exit 1
fi
if [[ $(id -u) != 0 ]]; then
    lacks "root: run it as root (pods need namespaces, mounts and cgroups)"
else
    check_kernel
    check_cgroups
fi
check_programs

if [[ ${#problems[@]} -gt 0 ]]; then
    echo "preflight: this machine lacks:" >&2
    printf '  - %s\n' "${problems[@]}" >&2
    exit 1
fi
