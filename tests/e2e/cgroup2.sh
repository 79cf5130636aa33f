#!/usr/bin/env bash
# Runs a command in User Mode Linux: a kernel of its own with cgroup v2, as a process, on this machine's root file system.
# For machines (build machines, mostly) whose own kernel still has cgroup v1.
#
#   cgroup2.sh [COMMAND...]       (none: `make run` once); its exit status is the command's
#
#   LSM=apparmor|selinux   the guest's security module (none); SELinux with Debian's policy and ours, permissive
#   UML_APPEND="..."       more kernel parameters
#   UML_TIMEOUT=seconds    the guest is killed then (3600)
#   UML_CPU=number         the CPU that all of the guest runs on (the last one that we may use)
#   TARGET=builtin         as in run.sh
#   PONTOON_BIN=file       the daemon, when it is built already
#
# The root file system is the host's, writable. Whatever containers are made of is on tmpfs there: /run, /var/tmp,
# /var/lib/cni, /var/lib/containerd, /var/lib/pontoon. One CPU and slow system calls: a pod takes some seconds.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Not below a directory that a tmpfs will hide.
scratch_parent=${PONTOON_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pontoon}

lsm_packages() {
    case ${LSM:-} in
    '') ;;
    # sudo, because critest calls apparmor_parser with it.
    apparmor) echo apparmor sudo ;;
    selinux) echo selinux-policy-default policycoreutils checkpolicy semodule-utils ;;
    *) echo "cgroup2: LSM is apparmor or selinux, not '$LSM'" >&2; return 2 ;;
    esac
}

lsm_parameters() {
    case ${LSM:-} in
    apparmor) echo lsm=apparmor security=apparmor apparmor=1 ;;
    # Permissive: labels are what is tested. The host's files have none, so nothing could run enforcing.
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

# The guest's pid 1. Everything it needs comes in through this text; the command's environment through $scratch/env.
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
    # A directory that the host lacks is left alone: made here, it would be made on the host.
    [[ ! -d $dir ]] || mount -t tmpfs -o mode=1777 tmpfs "$dir"
done
mkdir -p /run/lock /run/netns
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t securityfs securityfs /sys/kernel/security
if [[ -n $selinux_policy ]]; then
    # The host's policy stays as it is, whatever happens here.
    mount -t tmpfs tmpfs /etc/selinux
    cp -r "$selinux_policy/." /etc/selinux
    mount -t selinuxfs selinuxfs /sys/fs/selinux
    load_policy -i || echo "cgroup2: load_policy failed"
fi
# One at a time: an unknown name would refuse them all.
for controller in cpu cpuset io memory pids; do
    echo "+$controller" >/sys/fs/cgroup/cgroup.subtree_control
done 2>/dev/null
# modprobe wants lib/modules, which the host need not have.
mkdir -p /run/uml/lib
ln -s /usr/lib/uml/modules /run/uml/lib/modules
for module in overlay veth bridge br_netfilter ip_tables iptable_nat iptable_filter ip6table_nat ip6table_filter \
    xt_MASQUERADE xt_comment xt_mark xt_conntrack xt_addrtype xt_multiport xt_nat xt_tcpudp xt_sctp ifb sch_tbf sch_ingress act_mirred cls_u32; do
    modprobe -q -d /run/uml "$module"
done
ip link set lo up
# sudo complains about a name that it cannot resolve, and critest takes any complaint for a failure.
echo localhost >/proc/sys/kernel/hostname
# A user namespace may mount a proc only where one is seen whole, and the next lines cover a part of /proc.
mkdir /run/proc
mount -t proc proc /run/proc
# cAdvisor, and with it kubelet, refuses a CPU without a clock speed.
{ cat /proc/cpuinfo; printf 'cpu MHz\t: 1000.000\n'; } >/run/cpuinfo
mount --bind /run/cpuinfo /proc/cpuinfo
# This kernel's nf_tables has no nat table.
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

# A guest has one CPU, and each of its system calls goes from one process of ours to another and back: on one CPU that is
# a switch, from one to the other a wake-up.
cpu() {
    local last
    last=$(taskset --cpu-list --pid $$)
    echo "${UML_CPU:-${last##*[ ,-]}}"
}

boot() {
    declare -px | grep -vE '^declare -x (OLDPWD|PWD|SHLVL|_)=' | sed 's/^declare -x/export/' >"$scratch/env"
    printf '%q ' "$@" >"$scratch/command"
    write_init >"$scratch/init"
    chmod 755 "$scratch/init"
    # The terminal stays ours: the guest's console would put it into raw mode, and Ctrl-C could not end it.
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
# The one directory that containerd's own CRI writes to whatever it is told: a tmpfs can only cover what is there.
if [[ ! -d /var/lib/cni ]]; then
    mkdir /var/lib/cni
    trap 'rm -rf "$scratch"; rmdir --ignore-fail-on-non-empty /var/lib/cni' EXIT
fi
boot "$@"
