#!/usr/bin/env bash
# Builds the images that the tests pull, under their real names, from Debian packages and two C programs. Stores them in
# docker-registry's format on disk, so that registry.sh serves them without an import.
#
#   build.sh          prints a directory with storage/ (of docker-registry) and the list `images` (name, digest, bytes)
#
# The images are cached for all checkouts of a machine, under a hash of all inputs; a second call returns at once.
# DEBIAN_MIRROR=url is the source of the packages. They are not installed, only unpacked into a directory, from which the
# needed files are copied.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
files=$here/files
cache=${PONTOON_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pontoon}/images

# Independent of the machine's own release: from trixie on, libraries are under /usr only, and layers would need symlinks.
suite=bookworm
packages=busybox-static,nginx-light,apache2-bin,util-linux,procps,libpcre2-8-0
arch=$(dpkg --print-architecture)
path=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

say() { printf 'images: %s\n' "$*" >&2; }

cache_key() {
    { cat "${BASH_SOURCE[0]}"; find "$files" -type f | sort | xargs cat; printf '%s\n' "$arch"; } | sha256sum | cut -c1-16
}

# ---- the files ----------------------------------------------------------------------------------------------------------

# unpack_packages: unpacks them into $debian. The variant "extract" runs no maintainer scripts, so it executes no program
# of the packages, mounts nothing and adds no users. It does not use the machine's package lists and caches.
unpack_packages() {
    say "unpacking $packages"
    debian=$work/debian
    mmdebstrap --quiet --mode=root --variant=extract --include="$packages" --format=directory \
        --skip=chroot/mount,check/qemu,cleanup \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/perl/*' \
        "$suite" "$debian" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >&2
}

# libraries_of FILE: prints the libraries that it needs, as paths below $debian. Uses the loader in that tree: no chroot is
# needed, and the machine's libraries do not matter.
libraries_of() {
    local loader libs
    loader=$(find "$debian"/lib64 "$debian"/lib -maxdepth 1 -name 'ld-linux*.so.*' -print -quit 2>/dev/null)
    libs=$(find "$debian/lib" "$debian/usr/lib" -maxdepth 1 -type d -name '*-linux-gnu' -printf '%p:')
    printf '%s\n' "${loader#"$debian"/}"
    "$loader" --library-path "${libs%:}" --list "$1" | sed -n "s|.*=> $debian/\([^ ]*\) .*|\1|p"
}

# add_program ROOT FILE [AS]: copies a program of $debian and its libraries to ROOT.
add_program() {
    local root=$1 file=$2 as=${3:-$2} library
    install -D "$debian/$file" "$root/$as"
    while read -r library; do
        install -D "$debian/$library" "$root/$library"
    done < <(libraries_of "$debian/$file")
}

# Each applet is a hard link: if they were symlinks to one busybox, a mask on /bin/ls would hide all of them.
layer_busybox() {
    local root=$1 applet
    mkdir -p "$root"/{bin,dev,etc,home,proc,root,run,sys,usr/bin,var/log}
    ln -s ../run "$root/var/run"
    install -d -m 1777 "$root/tmp" "$root/var/tmp"
    install "$debian/bin/busybox" "$root/bin/busybox"
    for applet in $("$root/bin/busybox" --list); do
        [[ -e $root/bin/$applet ]] || ln "$root/bin/busybox" "$root/bin/$applet"
    done
    printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'daemon:x:1:1:daemon:/usr/sbin:/bin/false' \
        'www-data:x:33:33:www-data:/var/www:/bin/false' 'nobody:x:65534:65534:nobody:/home:/bin/false' >"$root/etc/passwd"
    printf '%s\n' 'root:x:0:' 'daemon:x:1:' 'www-data:x:33:' 'nogroup:x:65534:' >"$root/etc/group"
}

# Programs that critest runs in the busybox image and that Debian's busybox does not have.
layer_extras() {
    add_program "$1" usr/bin/ipcs
    add_program "$1" usr/bin/pgrep
}

layer_nginx() {
    add_program "$1" usr/sbin/nginx
    install -D -m 644 "$debian/etc/nginx/mime.types" "$1/etc/nginx/mime.types"
    install -m 644 "$files/nginx.conf" "$1/etc/nginx/nginx.conf"
    mkdir -p "$1/etc/nginx/conf.d" "$1"/var/lib/nginx "$1"/var/log/nginx "$1/usr/share/nginx/html"
    sed 's/PORT/80/' "$files/nginx-server.conf" >"$1/etc/nginx/conf.d/default.conf"
    printf '<h1>Welcome to nginx!</h1>\n' >"$1/usr/share/nginx/html/index.html"
}

layer_hostnet() {
    mkdir -p "$1/etc/nginx/conf.d"
    sed 's/PORT/12003/' "$files/nginx-server.conf" >"$1/etc/nginx/conf.d/default.conf"
}

layer_httpd() {
    local module
    add_program "$1" usr/sbin/apache2 usr/local/apache2/bin/httpd
    for module in mpm_prefork authz_core dir; do
        add_program "$1" "usr/lib/apache2/modules/mod_$module.so" "usr/local/apache2/modules/mod_$module.so"
    done
    mkdir -p "$1"/usr/local/apache2/{conf,htdocs,logs}
    install -m 644 "$files/httpd.conf" "$1/usr/local/apache2/conf/httpd.conf"
    printf '<html><body><h1>It works!</h1></body></html>\n' >"$1/usr/local/apache2/htdocs/index.html"
}

layer_predefined_group() {
    layer_busybox "$work/users"
    mkdir -p "$1/etc" "$1/home/default-user"
    { cat "$work/users/etc/passwd"; echo 'default-user:x:1000:1000::/home/default-user:/bin/sh'; } >"$1/etc/passwd"
    { cat "$work/users/etc/group"; echo 'default-user:x:1000:'; echo 'group-defined-in-image:x:50000:default-user'; } >"$1/etc/group"
}

# compile SOURCE OUTPUT: static, for an image with no other files.
compile() {
    mkdir -p "$(dirname "$2")"
    gcc -Os -static -s -o "$2" "$files/$1"
}

layer_pause() { compile pause.c "$1/pause"; }

layer_nonewprivs() {
    compile nonewprivs.c "$1/nonewprivs"
    chmod 4755 "$1/nonewprivs"
}

# ---- the registry's storage ---------------------------------------------------------------------------------------------

# put_blob FILE: moves it into the storage and prints its digest.
put_blob() {
    local hex
    hex=$(sha256sum "$1" | cut -d' ' -f1)
    mkdir -p "$storage/blobs/sha256/${hex:0:2}/$hex"
    mv "$1" "$storage/blobs/sha256/${hex:0:2}/$hex/data"
    printf 'sha256:%s\n' "$hex"
}

blob() { printf '%s\n' "$storage/blobs/sha256/${1:7:2}/${1:7}/data"; }

# link DIGEST DIRECTORY: writes docker-registry's link file, which records that a repository has a blob.
link() {
    mkdir -p "$storage/repositories/$2"
    printf '%s' "$1" >"$storage/repositories/$2/link"
}

# make_layer NAME: builds a layer; layers/NAME.json has its digest, size and uncompressed digest. The build is reproducible:
# the same files give the same digest.
make_layer() {
    local name=$1 root=$work/root-$1 tar=$work/layer.tar digest
    mkdir -p "$root" "$work/layers"
    "layer_$name" "$root"
    tar --sort=name --mtime=@1577836800 --owner=0 --group=0 --numeric-owner --format=gnu -C "$root" -cf "$tar" .
    gzip -n -6 <"$tar" >"$tar.gz"
    digest=$(put_blob "$tar.gz")
    jq -n --arg digest "$digest" --arg diff "sha256:$(sha256sum "$tar" | cut -d' ' -f1)" \
        --argjson size "$(stat -c %s "$(blob "$digest")")" '{$digest, $size, $diff}' >"$work/layers/$name.json"
    rm "$tar"
}

descriptor() {
    jq -cn --arg mediaType "$1" --arg digest "$2" --argjson size "$(stat -c %s "$(blob "$2")")" '{$mediaType, $digest, $size}'
}

# image SHAPE CONFIG "LAYERS" NAME:TAG...: stores one image under all these names. SHAPE is docker or oci (the format of the
# manifest), or index: an OCI index, as nearly all real images have. The index also lists a platform whose manifest does not
# exist; a client must choose its own platform.
image() {
    local shape=$1 config=$2 layers=$3 layer digest manifest kind
    local -a parts=()
    shift 3
    for layer in $layers; do
        parts+=("$work/layers/$layer.json")
    done
    case $shape in
    docker) kind=docker ;;
    *) kind=oci ;;
    esac
    jq -cs --argjson config "$config" --arg arch "$arch" --arg path "$path" '{
        created: "2020-01-01T00:00:00Z", architecture: $arch, os: "linux",
        config: ({Env: ["PATH=" + $path], WorkingDir: "/"} + $config),
        rootfs: {type: "layers", diff_ids: map(.diff)},
        history: map({created: "2020-01-01T00:00:00Z", created_by: "pontoon tests"})
    }' "${parts[@]}" >"$work/config.json"
    config=$(put_blob "$work/config.json")

    local config_type=application/vnd.oci.image.config.v1+json layer_type=application/vnd.oci.image.layer.v1.tar+gzip
    local manifest_type=application/vnd.oci.image.manifest.v1+json index_type=application/vnd.oci.image.index.v1+json
    if [[ $kind == docker ]]; then
        config_type=application/vnd.docker.container.image.v1+json
        layer_type=application/vnd.docker.image.rootfs.diff.tar.gzip
        manifest_type=application/vnd.docker.distribution.manifest.v2+json
    fi
    jq -cs --argjson config "$(descriptor $config_type "$config")" --arg type $manifest_type --arg layer $layer_type '{
        schemaVersion: 2, mediaType: $type, config: $config,
        layers: map({mediaType: $layer, digest, size})
    }' "${parts[@]}" >"$work/manifest.json"
    manifest=$(put_blob "$work/manifest.json")
    digest=$manifest
    if [[ $shape == index ]]; then
        jq -cn --argjson ours "$(descriptor $manifest_type "$manifest")" --arg arch "$arch" --arg type $index_type '{
            schemaVersion: 2, mediaType: $type, manifests: [
                {mediaType: $ours.mediaType, digest: ("sha256:" + "0" * 64), size: 1000, platform: {architecture: "s390x", os: "linux"}},
                ($ours + {platform: {architecture: $arch, os: "linux"}})
            ]}' >"$work/index.json"
        digest=$(put_blob "$work/index.json")
    fi
    name_image "$digest" "$manifest" "$config" "${parts[*]}" "$@"
}

# name_image TOP MANIFEST CONFIG LAYER_FILES NAME:TAG...
name_image() {
    local top=$1 manifest=$2 config=$3 layer_files=$4 name tag digest
    shift 4
    for name in "$@"; do
        tag=${name##*:} name=${name%:*}
        # shellcheck disable=SC2086  # a list of files
        for digest in "$config" $(jq -r .digest $layer_files); do
            link "$digest" "$name/_layers/sha256/${digest:7}"
        done
        for digest in "$top" "$manifest"; do
            link "$digest" "$name/_manifests/revisions/sha256/${digest:7}"
        done
        link "$top" "$name/_manifests/tags/$tag/current"
        link "$top" "$name/_manifests/tags/$tag/index/sha256/${top:7}"
        # shellcheck disable=SC2086
        printf '%s:%s\t%s\t%s\n' "$name" "$tag" "$top" "$(jq -s 'map(.size) | add' $layer_files)" >>"$out/images"
    done
}

# ---- the images: names without a registry, because the names of all registries lead to the same registry -----------------

shell='{"Cmd": ["sh"]}'

# different NAME: prints a config with a label, so that images with the same layers have different ids.
different() { jq -cn --arg name "$1" '{Cmd: ["sh"], Labels: {test: $name}}'; }

make_images() {
    local staging=k8s-staging-cri-tools user number tag
    local pause='{"Entrypoint": ["/pause"], "User": "65535:65535"}'
    local nginx='{"Cmd": ["nginx", "-g", "daemon off;"], "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT"}'

    # No bed's containerd has 3.9 as its sandbox image, because critest removes it.
    image index "$pause" pause pause:3.9
    image index "$(jq -c '. + {Labels: {test: "3.10"}}' <<<"$pause")" pause pause:3.10 pause:3.10.1 pause:3.10.2

    image index "$shell" 'busybox extras' e2e-test-images/busybox:1.29-{1,2,4} library/busybox:{1,1.36,latest}
    image docker "$nginx" 'busybox nginx' e2e-test-images/nginx:1.14-{1,2,4} library/nginx:{1,latest}
    image oci '{"Cmd": ["/usr/local/apache2/bin/httpd", "-DFOREGROUND", "-f", "/usr/local/apache2/conf/httpd.conf"], "ExposedPorts": {"80/tcp": {}}}' 'busybox httpd' \
        e2e-test-images/httpd:2.4.39-4
    image oci '{"Entrypoint": ["/nonewprivs"]}' nonewprivs e2e-test-images/nonewprivs:1.3

    for number in 1 2 3 latest; do
        image oci "$(different "test-image-$number")" busybox $staging/test-image-$number:latest
    done
    image oci "$(different test-image-tags)" busybox $staging/test-image-tags:{1,2,3}
    for tag in test all; do
        image oci "$(different "test-image-tag-$tag")" busybox $staging/test-image-tag:$tag
    done
    for user in uid=1002 username=www-data uid-group=1003:1004 username-group=www-data:1004; do
        image oci "$(jq -cn --arg user "${user#*=}" '{Cmd: ["sh"], User: $user}')" busybox "$staging/test-image-user-${user%%=*}:latest"
    done
    image oci '{"Cmd": ["sh"], "User": "1000"}' 'busybox predefined_group' $staging/test-image-predefined-group:latest
    image docker "$nginx" 'busybox nginx hostnet' "$staging/hostnet-nginx-$arch:latest"

    # The images that critest's benchmarks list, and remove at the end.
    for tag in 1 1.35.0-glibc 1-uclibc 1-glibc 1-musl; do
        image index "$(different "busybox-$tag")" busybox docker/library/busybox:$tag
    done
}

make_all() {
    local layer
    umask 022
    out=$work/out storage=$work/out/storage/docker/registry/v2
    mkdir -p "$storage"
    unpack_packages
    for layer in busybox extras nginx hostnet httpd predefined_group pause nonewprivs; do
        say "layer $layer"
        make_layer $layer
    done
    say "images"
    make_images
    sort -o "$out/images" "$out/images"
}

missing_programs() {
    local program
    for program in mmdebstrap gcc jq flock dpkg; do
        command -v $program >/dev/null || printf ' %s' $program
    done
}

key=$(cache_key)
if [[ ! -d $cache/$key ]]; then
    missing=$(missing_programs)
    [[ -z $missing ]] || { say "not installed:$missing (tests/tools/packages.sh installs them)"; exit 1; }
    mkdir -p "$cache"
    # One builder at a time; a second caller waits and then uses the result.
    exec 9>"$cache/lock"
    flock --nonblock 9 || { say "another build is running, waiting"; flock 9; }
fi
if [[ ! -d $cache/$key ]]; then
    start=$SECONDS
    # Left by a builder that was killed: no other builder can run while this one has the lock.
    rm -rf "$cache"/.build.*
    work=$(mktemp -d "$cache/.build.XXXXXX")
    # apt in mmdebstrap runs as the user _apt, which needs access to the directory.
    chmod 755 "$work"
    trap 'rm -rf "$work"' EXIT
    make_all
    # Moved last: other processes see a directory of this name only when it is complete.
    mv "$work/out" "$cache/$key"
    say "$(wc -l <"$cache/$key/images") names, $(du -sh "$cache/$key" | cut -f1), built in $((SECONDS - start)) s"
fi
# Remove images that no checkout has used for two weeks.
touch "$cache/$key"
find "$cache" -mindepth 1 -maxdepth 1 -type d -mtime +14 -exec rm -rf {} +
printf '%s\n' "$cache/$key"
