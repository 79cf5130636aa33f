#!/usr/bin/env bash
# Runs a command in User Mode Linux: a separate kernel with cgroup v2, which runs as a process on this machine's root file
# system. For machines (mostly build machines) whose own kernel has cgroup v1.
#
#   cgroup2.sh [COMMAND...]       (without COMMAND: `make run` once); exits with the command's status
#
#   LSM=apparmor|selinux   the guest's security module (none); SELinux is permissive, with Debian's policy and our types
#   UML_APPEND="..."       more kernel parameters
#   UML_TIMEOUT=seconds    after which the guest is killed (3600)
#   UML_CPU=number         the CPU on which the whole guest runs (the last one that this process may use)
#   TARGET=builtin         as in run.sh
#   PONTOON_BIN=file       the daemon's program (without it, cargo builds it)
#
# The root file system is the host's, and writable. The directories that containers need are on tmpfs: /run, /var/tmp,
# /var/lib/cni, /var/lib/containerd, /var/lib/pontoon. The guest has one CPU and slow system calls: a pod takes some seconds.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Not below a directory on which the guest mounts a tmpfs.
scratch_parent=${PONTOON_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pontoon}

lsm_packages() {
    case ${LSM:-} in
    '') ;;
    # critest calls apparmor_parser with sudo.
    apparmor) echo apparmor sudo ;;
    selinux) echo selinux-policy-default policycoreutils checkpolicy semodule-utils ;;
    *) echo "cgroup2: LSM is apparmor or selinux, not '$LSM'" >&2; return 2 ;;
    esac
}

lsm_parameters() {
    case ${LSM:-} in
    apparmor) echo lsm=apparmor security=apparmor apparmor=1 ;;
    # Permissive: the tests check labels only. The host's files have no labels, so no program could run in enforcing mode.
    selinux) echo lsm=selinux security=selinux selinux=1 enforcing=0 ;;
    esac
}

prepare() {
    local packages
    packages=$(lsm_packages)
    # shellcheck disable=SC2086  # a list
    "$repo/tests/tools/packages.sh" user-mode-linux kmod $packages
    BIN=$("$repo/tests/tools/build.sh" core)
    selinux_policy=
    [[ ${LSM:-} != selinux ]] || selinux_policy=$("$repo/tests/tools/selinux/build.sh")
    if [[ ${TARGET:-pontoon} == pontoon && -z ${PONTOON_BIN:-} ]]; then
        (cd "$repo" && cargo build --release --locked)
    fi
    PONTOON_BIN=${PONTOON_BIN:-$repo/target/release/pontoon}
    export BIN PONTOON_BIN PREPARED=1
}

# Prints the guest's pid 1. The script contains the values that it needs; the command's environment is in $scratch/env.
write_init() {
    cat <<EOF
#!/bin/bash
scratch=$scratch
repo=$repo
selinux_policy=$selinux_policy
EOF
    cat <<'EOF'
mount -t proc proc /proc
mount -t sysfs sys /sys
mountpoint -q /dev || mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
ln -sf /proc/self/fd /dev/fd
for dir in /run /var/tmp /var/lib/cni /var/lib/containerd /var/lib/pontoon /var/cache/apparmor; do
    # Skip a directory that the host does not have: creating it here would create it on the host.
    [[ ! -d $dir ]] || mount -t tmpfs -o mode=1777 tmpfs "$dir"
done
mkdir -p /run/lock /run/netns
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
if [[ -n $selinux_policy ]]; then
    # A copy on a tmpfs, so that the guest cannot change the host's policy.
    mount -t tmpfs tmpfs /etc/selinux
    cp -r "$selinux_policy/." /etc/selinux
    mount -t selinuxfs selinuxfs /sys/fs/selinux
    load_policy -i || echo "cgroup2: load_policy failed"
fi
# One at a time: if one name is unknown, the kernel rejects the whole write.
for controller in cpu cpuset io memory pids; do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done 2>/dev/null
# modprobe needs lib/modules, which the host may not have.
mkdir -p /run/uml/lib
ln -s /usr/lib/uml/modules /run/uml/lib/modules
for module in overlay fuse veth bridge br_netfilter ip_tables iptable_nat iptable_filter ip6table_nat ip6table_filter \
    xt_MASQUERADE xt_comment xt_mark xt_conntrack xt_addrtype xt_multiport xt_nat xt_tcpudp xt_sctp ifb sch_tbf sch_ingress act_mirred cls_u32; do
    modprobe -q -d /run/uml "$module"
done
ip link set lo up
# sudo prints a warning if it cannot resolve the host name, and critest takes any warning for a failure.
echo localhost >/proc/sys/kernel/hostname
# Inside a user namespace, proc can be mounted only if an unobstructed proc mount exists already. The next lines cover a file
# of /proc, so mount another one.
mkdir /run/proc
mount -t proc proc /run/proc
# cAdvisor, and therefore kubelet, fails if /proc/cpuinfo has no clock speed.
{ cat /proc/cpuinfo; printf 'cpu MHz\t: 1000.000\n'; } >/run/cpuinfo
mount --bind /run/cpuinfo /proc/cpuinfo
# nf_tables of this kernel has no nat table: use the legacy iptables.
mkdir /run/legacy
for name in iptables iptables-save iptables-restore ip6tables ip6tables-save ip6tables-restore; do
    ln -s /usr/sbin/xtables-legacy-multi /run/legacy/$name
done

set -a
. "$scratch/env"
set +a
PATH=/run/legacy:$PATH
cd "$repo"
bash "$scratch/command"
echo $? >"$scratch/status"
sync
busybox poweroff -f
EOF
}

# The guest has one CPU, and each of its system calls goes from one process on the host to another and back. On one CPU of
# the host that is a context switch; between two CPUs it would be a wake-up.
cpu() {
    local last
    last=$(taskset --cpu-list --pid $$)
    echo "${UML_CPU:-${last##*[ ,-]}}"
}

boot() {
    # A guest has a network of its own, and does not reach a registry of the host (IMAGES_PORT).
    declare -px | grep -vE '^declare -x (OLDPWD|PWD|SHLVL|_|IMAGES_PORT)=' | sed 's/^declare -x/export/' >"$scratch/env"
    printf '%q ' "$@" >"$scratch/command"
    write_init >"$scratch/init"
    chmod 755 "$scratch/init"
    # The guest does not get the terminal: its console would put it into raw mode, and Ctrl-C would not work.
    # shellcheck disable=SC2046,SC2086  # lists of parameters
    timeout --foreground --kill-after=10 "${UML_TIMEOUT:-3600}" taskset --cpu-list "$(cpu)" linux.uml rootfstype=hostfs rootflags=/ rw mem="${UML_MEMORY:-4G}" uml_dir="$scratch" umid=uml init="$scratch/init" quiet loglevel=1 \
        con=null con0=fd:0,fd:1 $(lsm_parameters) ${UML_APPEND:-} </dev/null 2>"$scratch/stderr" | cat || true
    [[ -s $scratch/status ]] || { echo "cgroup2: the guest died; its last words:" >&2; tail -n 20 "$scratch/stderr" >&2; return 1; }
    return "$(<"$scratch/status")"
}

[[ $# -gt 0 ]] || set -- env ONCE=1 tests/e2e/run.sh
prepare
mkdir -p "$scratch_parent"
scratch=$(mktemp -d "$scratch_parent/uml.XXXXXX")
trap 'rm -rf "$scratch"' EXIT
# containerd's own CRI always writes to this directory. It must exist on the host, so that the guest can mount a tmpfs on it.
if [[ ! -d /var/lib/cni ]]; then
    mkdir /var/lib/cni
    trap 'rm -rf "$scratch"; rmdir --ignore-fail-on-non-empty /var/lib/cni' EXIT
fi
boot "$@"
