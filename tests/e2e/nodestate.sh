#!/usr/bin/env bash
# Prints what a container runtime may leave on a node, sorted and without what changes by itself (counters, pids, MAC
# addresses), so that   diff before after   shows a leak and nothing else.
set -euo pipefail

section() { printf '== %s\n' "$1"; }

# Names and kinds only: an index or address differs when a link was made anew.
links() {
    ip -o -details link | awk '{ sub(":$", "", $2); sub("@.*", "", $2); print $2 }' | sort
}

sysctls() {
    sysctl --ignore net.ipv4.ip_forward net.ipv6.conf.all.forwarding | sort
}

namespaces() {
    [[ ! -d /var/run/netns ]] || find /var/run/netns -mindepth 1 -maxdepth 1 | sort
}

# Target and type, one line each even when mounted twice, so that mounts piled on each other show.
mounts() {
    awk '{ for (i = 7; $i != "-"; i++); print $5, $(i + 1) }' /proc/self/mountinfo | sort
}

# Chains that somebody made and rules; the built-in chains exist or not depending on whether anyone ever looked.
rules() {
    local command table
    for command in iptables ip6tables; do
        for table in filter nat mangle raw; do
            # A kernel need not have the table.
            { "$command" -w 5 -t "$table" -S 2>/dev/null || true; } | { grep -v '^-P .* ACCEPT$' || true; } | sed "s/^/$command $table /"
        done
    done
}

# In every hierarchy, those that carry a name of Kubernetes or of ours, or an id.
cgroups() {
    find /sys/fs/cgroup -mindepth 1 -type d -regextype posix-extended \
        -regex '.*/([^/]*(pontoon|ptbed|k8s\.io|kubepods|cri-containerd|critest|crictl)[^/]*|[^/]*[0-9a-f]{64}[^/]*)(/.*)?' 2>/dev/null | sort || true
}

# How many of each; by name, since a pid says nothing. Not the dead that init has yet to reap.
processes() {
    # pontoon-0123abc is no daemon of ours but cargo's unit tests, which may run beside.
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
