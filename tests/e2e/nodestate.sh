#!/usr/bin/env bash
# Prints everything that a container runtime may leave on a node, sorted and without values that change by themselves
# (counters, pids, MAC addresses), so that   diff before after   shows leaks only.
set -euo pipefail

section() { printf '== %s\n' "$1"; }

# Names only: the index and the address of a link change when it is created again.
links() {
    ip -o -details link | awk '{ sub(":$", "", $2); sub("@.*", "", $2); print $2 }' | sort
}

sysctls() {
    sysctl --ignore net.ipv4.ip_forward net.ipv6.conf.all.forwarding | sort
}

namespaces() {
    [[ ! -d /var/run/netns ]] || find /var/run/netns -mindepth 1 -maxdepth 1 | sort
}

# Target and type, a line for each mount, so that several mounts on the same target are visible.
mounts() {
    awk '{ for (i = 7; $i != "-"; i++); print $5, $(i + 1) }' /proc/self/mountinfo | sort
}

# Rules and user-defined chains. Built-in chains are left out: they are created when a program first lists a table.
rules() {
    local command table
    for command in iptables ip6tables; do
        for table in filter nat mangle raw; do
            # The kernel may not have the table.
            { "$command" -w 5 -t "$table" -S 2>/dev/null || true; } | { grep -v '^-P .* ACCEPT$' || true; } | sed "s/^/$command $table /"
        done
    done
}

# The cgroups of all hierarchies whose path has a name that Kubernetes or Pontoon uses, or an id.
cgroups() {
    find /sys/fs/cgroup -mindepth 1 -type d -regextype posix-extended \
        -regex '.*/([^/]*(pontoon|ptbed|k8s\.io|kubepods|cri-containerd|critest|crictl)[^/]*|[^/]*[0-9a-f]{64}[^/]*)(/.*)?' 2>/dev/null | sort || true
}

# The number of processes of each name, without zombies that init has not reaped yet.
processes() {
    # pontoon-0123abc is not the daemon but cargo's unit tests, which may run at the same time.
    ps -eo stat=,comm= | awk '$1 !~ /^Z/ && $2 !~ /^pontoon-[0-9a-f]+$/ &&
        $2 ~ /^(containerd|pontoon|runc|crun|conmon|pause|docker-registry)/ { print $2 }' | sort | uniq -c
}

files() {
    local dir
    for dir in /run/pontoon /run/containerd /run/pontoon-beds /var/lib/pontoon /var/lib/cni /var/lib/containerd /opt/containerd; do
        [[ ! -e $dir ]] || find "$dir" -xdev | sort
    done
    find /var/tmp -maxdepth 1 -name 'pt-*' | sort
}

section links; links
section sysctls; sysctls
section 'network namespaces'; namespaces
section mounts; mounts
section rules; rules
section cgroups; cgroups
section processes; processes
section files; files
