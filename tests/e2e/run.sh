#!/usr/bin/env bash
# `make run`: from a clone to a running pod. Checks the machine, builds the tools and Pontoon, starts a private containerd
# and Pontoon, runs the example pod (examples/) and waits for Ctrl-C. Always cleans up at its end.
#
#   ONCE=1           do not wait for Ctrl-C
#   TARGET=builtin   containerd's own CRI instead of Pontoon, to compare
#   PREPARED=1       for cgroup2.sh: the packages are installed, and BIN and PONTOON_BIN name the tools and the daemon
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
target=${TARGET:-pontoon}
bed_name=run-$$
sleeper=

step() { printf '\n\033[1m%s\033[0m\n' "$*"; }

# Runs without a trap for signals, because there is nothing to clean up yet.
prepare() {
    step "Checking this machine"
    "$repo/tests/tools/preflight.sh"
    [[ -z ${PREPARED:-} ]] || return 0
    "$repo/tests/tools/packages.sh"
    step "Building the tools (the first time, some minutes)"
    BIN=$("$repo/tests/tools/build.sh" core)
    if [[ $target == pontoon ]]; then
        step "Building Pontoon"
        (cd "$repo" && cargo build --release --locked)
    fi
}

# A trap runs inside the function that it interrupts, with that function's local variables. Therefore a separate process
# takes down the bed. It inherits the ignored signals, so a second Ctrl-C does not stop it.
clean_up() {
    local status=$?
    trap '' INT TERM HUP
    step "Cleaning up"
    [[ -z $sleeper ]] || kill "$sleeper"
    "$repo/tests/e2e/bed.sh" down "$bed_name"
    exit "$status"
}

free_port() {
    local port
    for port in {5000..5099}; do
        # A refused connection means that the port is free.
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || { printf '%s\n' "$port"; return 0; }
    done
    return 1
}

start_bed() {
    local option=
    [[ $target == pontoon ]] || option=--builtin
    step "Starting containerd and $target"
    REGISTRY_PORT=$(free_port)
    bed_up "$bed_name" $option
    # shellcheck disable=SC1091
    . "$BED/env"
    step "Starting a local registry and pushing the example's image to it"
    bed_start_registry
    "$repo/tests/images/demo.sh" "$REGISTRY_PORT"
}

# Writes the examples to $BED/examples, with their placeholders filled in.
fill_in_examples() {
    local file
    mkdir -p "$BED/examples" "$BED/shared" "$BED/pods/example"
    for file in "$repo"/examples/*.json; do
        sed -e "s|@SHARED_DIR@|$BED/shared|" -e "s|@LOG_DIR@|$BED/pods/example|" -e "s|@CGROUP_PARENT@|$CGROUP_PARENT|" \
            "$file" >"$BED/examples/$(basename "$file")"
    done
}

# start_container FILE: prints the container's id.
start_container() {
    local id
    id=$(crictl create "$pod" "$BED/examples/$1" "$BED/examples/pod.json")
    crictl start "$id" >/dev/null
    printf '%s\n' "$id"
}

# wait_exit ID: fails unless the container exits with 0 within 30 s.
wait_exit() {
    local state
    for _ in {1..300}; do
        state=$(crictl inspect --output json "$1" | jq -r '.status | "\(.state) \(.exitCode)"')
        case $state in
        'CONTAINER_EXITED 0') return ;;
        CONTAINER_EXITED*) break ;;
        esac
        sleep 0.1
    done
    echo "the init container is $state:" >&2
    crictl logs "$1" >&2
    return 1
}

run_pod() {
    local init
    step "Pulling the image"
    crictl pull "$(jq -r .image.image "$BED/examples/web.json")"
    step "Starting the pod"
    pod=$(crictl runp "$BED/examples/pod.json")
    init=$(start_container init.json)
    wait_exit "$init"
    web=$(start_container web.json)
    writer=$(start_container writer.json)
    echo "pod $pod"
    echo "init $init (ended with 0)"
    echo "web $web"
    echo "writer $writer"

    step "The pod's address"
    ip=$(crictl inspectp --output json "$pod" | jq -r .status.network.ip)
    echo "$ip"
    step "http://$ip/"
    curl --silent --show-error --fail --max-time 5 --retry 20 --retry-delay 1 --retry-all-errors "http://$ip/"
    step "Logs of init, web and writer"
    local id
    for id in "$init" "$web" "$writer"; do
        crictl logs "$id" 2>&1
    done
    step "crictl ps"
    crictl ps --all
}

prepare
export BIN
# shellcheck source=tests/e2e/bed.sh
. "$repo/tests/e2e/bed.sh"
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
start_bed
fill_in_examples
run_pod
if [[ -z ${ONCE:-} ]]; then
    step "The pod runs until Ctrl-C. From another terminal:"
    echo "$BIN/crictl --config $BED/crictl.yaml ps"
    echo "$BIN/crictl --config $BED/crictl.yaml exec --sync $web ls /data"
    echo "$BIN/crictl --config $BED/crictl.yaml logs -f $writer"
    echo "tail -f $BED/logs/*.log"
    # In the background, because bash runs a trap only between commands, but a signal interrupts `wait`.
    sleep infinity &
    sleeper=$!
    wait "$sleeper"
fi
