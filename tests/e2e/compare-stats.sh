#!/usr/bin/env bash
# `make compare-stats`: prints the stats that Pontoon and containerd's built-in CRI report for the same load in the same
# minute, on two beds, and the two direct reads of the cgroup between which each value must lie (tests/e2e/stats.rs). Fails
# if a value of Pontoon does not; those of the built-in CRI are only printed.
#
#   OUT=directory           for the logs (target/compare-stats)
#   PONTOON_BIN, E2E_BIN    the programs of the daemon and the suite (without them, cargo builds them)
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=built.sh
. "$repo/tests/e2e/built.sh"
out=${OUT:-$repo/target/compare-stats}
tests=(stats::what_a_container_uses stats::what_a_pod_uses stats::bytes_of_the_network)

build_daemon
build_suite
mkdir -p "$out"
out=$(cd "$out" && pwd)

# Runs one test at a time, so that the lines of both targets have the same order.
says() {
    local test
    for test in "${tests[@]}"; do
        echo "== ${test#stats::}"
        OUT=$out/logs-$1 TARGET=$1 "$repo/tests/e2e/suite.sh" "$test" || return 1
    done
}

says builtin >"$out/builtin" 2>&1 &
builtin=$!
status=0
says pontoon >"$out/pontoon" 2>&1 || status=$?
wait "$builtin" || echo "the built-in's values do not all lie between the reads: $out/builtin" >&2

# Reads lines `what: before .. value .. after`; pairs the n-th line of a name with the n-th of the other target.
awk '
    BEGIN { print "value\tread before\tpontoon\tread after\tbuilt-in\tread before\tread after" }
    /^== / { test = $2 }
    match($0, /^[a-z_ ]+: [0-9]+ \.\. [0-9]+ \.\. [0-9]+$/) {
        split($0, part, ": "); split(part[2], number, " \\.\\. ")
        key = test " " part[1] " " ++count[FILENAME, test, part[1]]
        if (FILENAME == ARGV[1]) { theirs[key] = number[2] "\t" number[1] "\t" number[3]; next }
        print key "\t" number[1] "\t" number[2] "\t" number[3] "\t" (key in theirs ? theirs[key] : "-\t-\t-")
    }' "$out/builtin" "$out/pontoon" | column -t -s $'\t'
((status == 0)) || tail -n 20 "$out/pontoon" >&2
exit "$status"
