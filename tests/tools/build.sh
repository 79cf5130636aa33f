#!/usr/bin/env bash
# Builds the pinned test tools into a cache that all checkouts of a machine share.
#
#   build.sh [core] [critest] [kubelet] [streaming]      (without arguments: core)
#
# core     containerd, its runc shim, ctr, runc, crictl, and the CNI plugins in bin/cni
# critest  the CRI conformance tests
# kubelet  kubelet
# streaming  streamer, our own client of exec, attach and port-forward (streaming/)
#
# The last line on stdout is the directory with the binaries; progress goes to stderr. Sets in the cache are not built again.
# Each tool is built in the directory of its own module, and therefore with the dependencies of its release. Only kubelet
# needs a separate go.mod (kubernetes/go.mod), because its own refers to its source tree.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${PONTOON_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pontoon}/tools

# The key contains everything that can change a binary: the pins, their checksums, this script, and the compiler.
cache_key() {
    { cat "$here"/go.mod "$here"/go.sum "$here"/kubernetes/go.mod "$here"/kubernetes/go.sum "$here"/streaming/* \
          "${BASH_SOURCE[0]}"
      go env GOVERSION GOARCH
    } | sha256sum | cut -c1-16
}

say() { printf 'tools: %s\n' "$*" >&2; }

# version_of MODULE [DIRECTORY]: prints the version that the directory's go.mod pins; fails if it does not pin the module.
version_of() {
    awk -v module="$1" '{ sub(/^require /, "") } $1 == module && $2 ~ /^v/ { print $2; found = 1 } END { exit !found }' \
        "${2:-$here}/go.mod"
}

# source_of MODULE: prints its directory in the module cache. Runs in this module, so that go checks the download against
# go.sum.
source_of() {
    (cd "$here" && go mod download -json "$1@$(version_of "$1")") | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p'
}

# timed OUTPUT DIRECTORY COMMAND...: runs it in DIRECTORY and prints how long it took. Overrides the caller's GOFLAGS and
# GOWORK: a -mod in them fails in the module cache, which is read-only.
timed() {
    local out=$1 dir=$2 start=$SECONDS
    shift 2
    (cd "$dir" && CGO_ENABLED=${CGO_ENABLED:-0} GOFLAGS=-buildvcs=false GOWORK=off "$@") >&2
    say "  $(basename "$out") ($((SECONDS - start)) s)"
}

# build_at DIRECTORY OUTPUT PACKAGE FLAGS...
build_at() {
    local dir=$1 out=$2 package=$3
    shift 3
    timed "$out" "$dir" go build -o "$out" -trimpath "$@" "$package"
}

build_core() {
    local out=$1 module source version tags name
    module=github.com/containerd/containerd/v2
    version=$(version_of $module) source=$(source_of $module)
    tags='no_btrfs no_zfs no_devmapper urfave_cli_no_docs'
    say "containerd $version"
    for name in containerd ctr; do
        build_at "$source" "$out/$name" ./cmd/$name -tags "$tags" -ldflags "-s -w -X $module/version.Version=${version#v}"
    done
    build_at "$source" "$out/containerd-shim-runc-v2" ./cmd/containerd-shim-runc-v2 \
        -tags "$tags no_grpc" -ldflags "-s -w -X $module/version.Version=${version#v}"

    module=github.com/opencontainers/runc
    source=$(source_of $module)
    say "runc $(version_of $module)"
    # Without libpathrs, a Rust library that Debian does not have: runc then uses the equivalent in Go.
    CGO_ENABLED=1 build_at "$source" "$out/runc" . -buildmode=pie -tags 'seccomp urfave_cli_no_docs' -ldflags '-s -w'

    module=sigs.k8s.io/cri-tools
    version=$(version_of $module) source=$(source_of $module)
    say "crictl $version"
    build_at "$source" "$out/crictl" ./cmd/crictl -ldflags "-s -w -X $module/pkg/version.Version=${version#v}"

    module=github.com/containernetworking/plugins
    version=$(version_of $module) source=$(source_of $module)
    say "CNI plugins $version"
    mkdir -p "$out/cni"
    for name in main/bridge main/loopback main/ptp ipam/host-local meta/portmap meta/bandwidth meta/firewall meta/tuning; do
        build_at "$source" "$out/cni/$(basename $name)" ./plugins/$name \
            -ldflags "-s -w -X $module/pkg/utils/buildversion.BuildVersion=$version"
    done
}

build_critest() {
    local out=$1 module=sigs.k8s.io/cri-tools version source
    version=$(version_of $module) source=$(source_of $module)
    say "critest $version"
    timed "$out/critest" "$source" go test -c -o "$out/critest" -trimpath \
        -ldflags "-s -w -X $module/pkg/version.Version=${version#v}" ./cmd/critest
}

build_kubelet() {
    local out=$1 version stamp=k8s.io/component-base/version
    version=$(version_of k8s.io/kubernetes "$here/kubernetes")
    say "kubelet $version"
    # Without the stamp, kubelet has the version v0.0.0-master, and features that need a real version fail.
    build_at "$here/kubernetes" "$out/kubelet" k8s.io/kubernetes/cmd/kubelet \
        -ldflags "-s -w -X $stamp.gitVersion=$version -X $stamp.gitMajor=1 -X $stamp.gitMinor=$(cut -d. -f2 <<<"$version")"
}

build_streaming() {
    say "streamer"
    build_at "$here/streaming" "$1/streamer" . -ldflags '-s -w'
}

# make_set NAME: builds a set in a temporary directory and moves its files into the cache, so that a running program is
# never overwritten in place. Creates the stamp file last, so that an interrupted set is built again.
make_set() {
    local name=$1 dir=$cache/$key start=$SECONDS scratch file
    [[ -e $dir/$name.built ]] && return 0
    scratch=$(mktemp -d "$dir/.build.XXXXXX")
    # shellcheck disable=SC2064  # expands to the current directory's path
    trap "rm -rf '$scratch'" EXIT
    "build_$name" "$scratch"
    (cd "$scratch" && find . -type f -printf '%P\n') | while read -r file; do
        mkdir -p "$dir/bin/$(dirname "$file")"
        mv -f "$scratch/$file" "$dir/bin/$file"
    done
    rm -rf "$scratch"
    touch "$dir/$name.built"
    say "$name built in $((SECONDS - start)) s"
}

sets=("$@")
[[ ${#sets[@]} -gt 0 ]] || sets=(core)
for name in "${sets[@]}"; do
    case $name in
    core | critest | kubelet | streaming) ;;
    *) say "unknown set '$name': core, critest, kubelet or streaming"; exit 2 ;;
    esac
done
command -v go >/dev/null || { say "go is not installed"; exit 1; }

key=$(cache_key)
mkdir -p "$cache/$key/bin"
# One builder at a time; a second caller waits and then uses the result.
exec 9>"$cache/$key/lock"
flock --nonblock 9 || { say "another build is running, waiting"; flock 9; }
for name in "${sets[@]}"; do
    make_set "$name"
done
# Remove tools that no checkout has used for two weeks.
touch "$cache/$key"
find "$cache" -mindepth 1 -maxdepth 1 -type d -mtime +14 -exec rm -rf {} +
printf '%s\n' "$cache/$key/bin"
