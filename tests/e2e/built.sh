# shellcheck shell=bash
# To be sourced: builds the programs for the scripts in this directory with cargo, unless PONTOON_BIN or E2E_BIN names them.
# `repo` is the checkout.

# The daemon, in a release build.
build_daemon() {
    [[ -z ${PONTOON_BIN:-} ]] || return 0
    (cd "${repo:?}" && cargo build --release --locked)
    export PONTOON_BIN=$repo/target/release/pontoon
}

# The suite as a program. `cargo test` would hold its lock on the build directory as long as the suite runs.
build_suite() {
    [[ -z ${E2E_BIN:-} ]] || return 0
    E2E_BIN=$(cd "${repo:?}" && cargo test --locked --no-run --test e2e --message-format=json |
        jq -r 'select(.profile.test? and .target.name == "e2e") | .executable // empty')
    export E2E_BIN
}

# use_daemon DAEMON: sets the daemon of the next bed, to compare two builds. An empty DAEMON means PONTOON_BIN, or the build
# of this checkout.
use_daemon() {
    : "${default_daemon=${PONTOON_BIN:-}}"
    PONTOON_BIN=${1:-$default_daemon}
    build_daemon
    export PONTOON_BIN
}
