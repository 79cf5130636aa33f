#!/usr/bin/env bash
# `make churn-containerd`: containerd, and then containerd and Pontoon, are killed while pods come and go
# (tests/e2e/churn_containerd). The same with containerd's own CRI, whose counts stand beside ours and fail nothing.
#
#   E2E_KILLS=60            kills of each daemon
#   E2E_SEED=number         to have the moments and the pods of a run again, which prints its seed
#   TARGET=pontoon|builtin  one of them (both)
#   OUT=directory           for the logs, *.counts and *.findings (target/e2e/churn)
set -euo pipefail

e2e=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repo=$(cd "$e2e/../.." && pwd)
# shellcheck source=built.sh
. "$e2e/built.sh"

out=${OUT:-$repo/target/e2e/churn}
export E2E_KILLS=${E2E_KILLS:-60}
status=0

# churn TARGET
churn() {
    rm -rf "${out:?}/$1"
    TARGET=$1 OUT=$out/$1 "$e2e/suite.sh" killed_while_pods_come_and_go
}

# counts TITLE FILE
counts() {
    [[ -e $2 ]] || return 0
    printf '\n%s: ' "$1"
    sed -E 's/^([0-9]+)\t/  \1\t/' "$2"
}

build_suite
if [[ ${TARGET:-pontoon} == pontoon ]]; then
    build_daemon
    churn pontoon || status=$?
fi
if [[ ${TARGET:-builtin} == builtin ]]; then
    churn builtin || status=$?
fi
counts 'Pontoon, containerd killed' "$out/pontoon/churn-containerd.counts"
counts 'Pontoon, both killed' "$out/pontoon/churn-both.counts"
counts 'the built-in' "$out/builtin/churn-containerd.counts"
exit $status
