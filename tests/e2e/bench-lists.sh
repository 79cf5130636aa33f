#!/usr/bin/env bash
# `make bench-lists`: the server's CPU time for the two lists that kubelet requests every second, with 1,000 containers, on
# Pontoon and on containerd's built-in CRI. The client does not decode the responses. Both have the same containerd and
# runc; the containers are CREATED. The CPU time of all daemons of a side counts.
#
#   LIMIT=n      fails if Pontoon's CPU time is above n percent of the built-in CRI's (50)
#   E2E_BIN, PONTOON_BIN    the programs of the suite and the daemon (without them, cargo builds them)
set -euo pipefail

# shellcheck source=with-bed.sh
. "$(dirname "${BASH_SOURCE[0]}")/with-bed.sh"
# shellcheck source=built.sh
. "$(dirname "${BASH_SOURCE[0]}")/built.sh"

limit=${LIMIT:-50}

build_daemon
build_suite
BIN=$("$repo/tests/tools/build.sh" core)
export BIN

declare -A used
for target in pontoon builtin; do
    bed_with_images "bl-$$" "$target"
    BENCH_LISTS=$with_scratch/result PONTOON_BED=$BED/env interruptible "$E2E_BIN" lists::a_thousand_containers_are_listed >&2
    read -r used[$target] bytes <"$with_scratch/result"
    printf '%s: %s us of CPU time for both lists (%s bytes)\n' "$target" "${used[$target]}" "$bytes"
    bed_without "bl-$$"
done
ratio=$((used[pontoon] * 100 / used[builtin]))
printf 'lists of 1,000 containers: pontoon takes %s %% of the CPU time of builtin, at most %s %%\n' "$ratio" "$limit"
((ratio <= limit))
