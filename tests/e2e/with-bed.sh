# shellcheck shell=bash
# To be sourced by tests that want a bed and a registry with the images of tests/images, and both gone at the end,
# however that comes.
#
#   bed_with_images NAME TARGET    sets BED, BIN, CRI_SOCKET and the rest of bed.sh's variables
#   registry_with_password HOST USER:PASSWORD   names HOST/... lead to a registry with the same images that wants them
#   bed_without NAME               takes them down early; at exit that is done for all that still stand
#   at_exit COMMAND...             runs it before that, last registered first
#   interruptible COMMAND...       runs it so that a signal to us ends it at once

e2e=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$e2e/../.." && pwd)

with_beds=()
with_exits=()
with_child=
with_scratch=$(mktemp -d /var/tmp/pt-images.XXXXXX)

at_exit() { with_exits+=("$(printf '%q ' "$@")"); }

# bash runs a trap only between commands, but it lets a wait be interrupted.
interruptible() {
    local status=0
    "$@" &
    with_child=$!
    wait "$with_child" || status=$?
    with_child=
    return $status
}

# Signals are ignored from here on, so that an impatient second Ctrl-C does not leave half of it behind.
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
    REGISTRY_PORT=$("$repo/tests/images/registry.sh" up "$with_scratch/registry-$name")
    # Not 3.9: critest removes that one, and the built-in would have to pull its sandbox image again.
    # Nor the endpoints of a bed before this one: crictl prefers them to its configuration.
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
