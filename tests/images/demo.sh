#!/usr/bin/env bash
# Builds the image of the example pod and pushes it to the local registry; needs only Debian's busybox, skopeo and umoci.
#
#   demo.sh PORT
#
# The images have the names of the real ones, so that the example also works on a node that can reach their registry. Their
# content is Debian's busybox. The pause image is the same with a command that waits; only the built-in CRI needs it, since
# Pontoon contains its own.
set -euo pipefail

port=${1:?port of the local registry}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

make_root() {
    local root=$1 applet
    mkdir -p "$root"/{bin,etc,proc,sys,dev,tmp,root}
    chmod 1777 "$root/tmp"
    cp /bin/busybox "$root/bin/busybox"
    for applet in $(/bin/busybox --list); do
        [[ $applet == busybox ]] || ln -s busybox "$root/bin/$applet"
    done
    printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$root/etc/passwd"
    printf 'root:x:0:\nnogroup:x:65534:\n' >"$root/etc/group"
}

# push NAME COMMAND...: pushes an image with the root file system as its only layer.
push() {
    local name=$1 word
    local -a command=()
    shift
    for word in "$@"; do command+=(--config.cmd "$word"); done
    umoci new --image "$scratch/layout:image"
    umoci raw add-layer --image "$scratch/layout:image" "$scratch/layer.tar"
    umoci config --image "$scratch/layout:image" "${command[@]}" \
        --config.env PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    skopeo copy --quiet --insecure-policy --dest-tls-verify=false "oci:$scratch/layout:image" "docker://127.0.0.1:$port/$name"
    umoci remove --image "$scratch/layout:image"
}

make_root "$scratch/root"
tar --create --file "$scratch/layer.tar" --directory "$scratch/root" --owner 0 --group 0 --numeric-owner --sort name .
umoci init --layout "$scratch/layout"
push e2e-test-images/busybox:1.29-2 sh
push pause:3.9 tail -f /dev/null
