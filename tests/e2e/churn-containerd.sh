#!/usr/bin/env bash
# `make churn-containerd`: kills containerd, and then containerd and Pontoon, while pods are created and removed
# (tests/e2e/churn_containerd). Does the same with containerd's own CRI, only to print its counts next to Pontoon's: they
# do not make the script fail.
#
#   E2E_KILLS=60            how often each daemon is killed
#   E2E_SEED=number         repeats the times of the kills and the kinds of the pods of a run, which printed this seed
#   TARGET=pontoon|builtin  only this one (both)
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
