# shellcheck shell=bash
# To be sourced by scripts that need a bed and a registry with the images of tests/images. Both are removed when the script
# exits, also after a signal.
#
#   bed_with_images NAME TARGET    creates them; sets BED, BIN, CRI_SOCKET and the other variables of bed.sh.
#                                  IMAGES_PORT is the port of a registry with these images that runs already
#   registry_with_password HOST USER:PASSWORD   starts a registry for the names HOST/... with the same images and a password
#   bed_without NAME               removes a bed and its registry before the exit
#   at_exit COMMAND...             runs it at exit, before the beds are removed; the command registered last runs first
#   interruptible COMMAND...       runs it so that a signal to this script ends it at once

e2e=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$e2e/../.." && pwd)

with_beds=()
with_exits=()
with_child=
with_scratch=$(mktemp -d /var/tmp/pt-images.XXXXXX)

at_exit() { with_exits+=("$(printf '%q ' "$@")"); }

# bash runs a trap only between commands, but a signal interrupts `wait`.
interruptible() {
    local status=0
    "$@" &
    with_child=$!
    wait "$with_child" || status=$?
    with_child=
    return $status
}

# Ignores further signals, so that a second Ctrl-C does not interrupt the clean-up.
with_clean_up() {
    local status=$? index name
    trap '' INT TERM HUP
    trap - EXIT
    set +e
    if [[ -n $with_child ]]; then
        kill "$with_child" 2>/dev/null
        wait "$with_child"
    fi
    for ((index = ${#with_exits[@]} - 1; index >= 0; index--)); do
        eval "${with_exits[index]}"
    done
    for name in "${with_beds[@]}"; do
        bed_without "$name"
    done
    rm -rf "$with_scratch"
    exit $status
}
trap with_clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

bed_with_images() {
    local name=$1 target=$2
    local -a option=()
    case $target in
    builtin) option=(--builtin) ;;
    pontoon) ;;
    *) echo "TARGET is pontoon or builtin, not '$target'" >&2; exit 2 ;;
    esac
    [[ " ${with_beds[*]} " == *" $name "* ]] || with_beds+=("$name")
    REGISTRY_PORT=${IMAGES_PORT:-$("$repo/tests/images/registry.sh" up "$with_scratch/registry-$name")}
    # PAUSE_IMAGE is not 3.9, because critest removes that one, and the built-in CRI would have to pull its sandbox image
    # again. The endpoints of an earlier bed are unset, because crictl prefers them to its configuration.
    env -u CONTAINER_RUNTIME_ENDPOINT -u IMAGE_SERVICE_ENDPOINT -u CRI_CONFIG_FILE \
        REGISTRY_PORT="$REGISTRY_PORT" PAUSE_IMAGE=registry.k8s.io/pause:3.10.2 "$e2e/bed.sh" up "$name" "${option[@]}" >/dev/null
    # shellcheck disable=SC1090
    . "$("$e2e/bed.sh" env "$name")"
}

registry_with_password() {
    local port
    at_exit "$repo/tests/images/registry.sh" down "$with_scratch/password-$1"
    port=$("$repo/tests/images/registry.sh" up "$with_scratch/password-$1" --auth "$2")
    mkdir -p "$BED/certs.d/$1"
    printf 'server = "http://127.0.0.1:%s"\n' "$port" >"$BED/certs.d/$1/hosts.toml"
}

bed_without() {
    "$e2e/bed.sh" down "$1" 2> >(grep -v "there is no bed" >&2)
    "$repo/tests/images/registry.sh" down "$with_scratch/registry-$1"
}
