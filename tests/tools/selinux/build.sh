#!/usr/bin/env bash
# Builds an SELinux policy for the tests: Debian's default policy with the container types (container.te) added.
#
#   build.sh      prints the directory that must become /etc/selinux where the policy is loaded
#
# Works on a copy of the machine's policy, which stays unchanged. The result is cached under a hash of all inputs.
# Needs the packages selinux-policy-default, policycoreutils, checkpolicy, semodule-utils.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${PONTOON_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pontoon}/selinux

cache_key() {
    { cat "${BASH_SOURCE[0]}" "$here/container.te"; find /etc/selinux/default/policy -type f -exec sha256sum {} +; } | sha256sum | cut -c1-16
}

# make_policy ROOT: semodule uses ROOT in place of /. -n: do not load the policy into the running kernel.
make_policy() {
    local root=$1
    mkdir -p "$root/etc" "$root/var/lib"
    cp -a /etc/selinux "$root/etc/selinux"
    cp -a /var/lib/selinux "$root/var/lib/selinux"
    checkmodule -M -m -o "$root/container.mod" "$here/container.te" >&2
    semodule_package -o "$root/container.pp" -m "$root/container.mod"
    semodule -p "$root" -s default -n -i "$root/container.pp" >&2
}

if [[ ! -d /etc/selinux/default/policy ]]; then
    echo "selinux: no policy here (tests/tools/packages.sh selinux-policy-default policycoreutils checkpolicy semodule-utils)" >&2
    exit 1
fi
key=$(cache_key)
if [[ ! -d $cache/$key ]]; then
    mkdir -p "$cache"
    # One builder at a time; a second caller waits and then uses the result.
    exec 9>"$cache/lock"
    flock 9
fi
if [[ ! -d $cache/$key ]]; then
    # Left by a builder that was killed: no other builder can run while this one has the lock.
    rm -rf "$cache"/.build.*
    work=$(mktemp -d "$cache/.build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    make_policy "$work"
    # Moved last, so that the directory is complete when it appears.
    mv "$work/etc/selinux" "$cache/$key"
fi
touch "$cache/$key"
find "$cache" -mindepth 1 -maxdepth 1 -type d -mtime +14 -exec rm -rf {} +
printf '%s\n' "$cache/$key"
