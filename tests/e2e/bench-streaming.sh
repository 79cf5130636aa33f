#!/usr/bin/env bash
# `make bench-streaming`: sends a gigabyte through an exec's stdout and through a port-forward, on Pontoon and on
# containerd's built-in CRI in turns (A B B A), each time on a new bed with the same containerd and runc. The client,
# streamer, uses kubectl's libraries and computes a checksum of the bytes.
#
#   ROUNDS=n         number of rounds of A B B A (2: on a small virtual machine, CPU seconds differ by a third between turns)
#   CPUS=list        pins all processes to these CPUs (none)
#   BLOCKS=n         number of blocks of 64 MiB for each transport (16): fewer are only enough to show that all works
#   OUT=directory    for the daemons' logs and the figures (target/bench-streaming)
#
# Prints the medians for each transport: MB/s, and the CPU seconds of the server (pontoon, or containerd with the built-in
# CRI), of containerd, and of the pod's shim. Then prints PASS or FAIL for each check of each transport that both servers
# have: all bytes arrived (otherwise the turn itself has failed), at least the built-in CRI's MB/s, at most half of its
# server's CPU seconds. Exits with 1 if a check fails. CHECK= (empty) prints the table only.
set -euo pipefail

# shellcheck source=with-bed.sh
. "$(dirname "${BASH_SOURCE[0]}")/with-bed.sh"
# shellcheck source=built.sh
. "$(dirname "${BASH_SOURCE[0]}")/built.sh"

out=${OUT:-$repo/target/bench-streaming}
bed=bs-$$

# turn NUMBER TARGET
turn() {
    local dir=$out/$1-$2
    printf 'turn %s: %s\n' "$1" "$2" >&2
    mkdir -p "$dir"
    bed_with_images "$bed" "$2"
    PONTOON_BED=$BED/env interruptible timeout --kill-after=60 300 "$E2E_BIN" --measure-streaming >"$dir/figures"
    cp -r "$BED/logs/." "$dir"
    bed_without "$bed"
}

# figures: prints the figures of all turns as one array; each has its target.
figures() {
    local target
    for target in pontoon builtin; do
        cat "$out"/*-$target/figures | jq -c --arg target $target '. + {target: $target}'
    done | jq -s .
}

medians='def median: sort | if length % 2 == 1 then .[length / 2 | floor] else (.[length / 2 - 1] + .[length / 2]) / 2 end;
    group_by([.what, .target]) | map({
        what: .[0].what, target: .[0].target, mbs: map(.mbs) | median, server: map(.server) | median,
        containerd: map(.containerd) | median, shim: map(.shim) | median, n: length})'

table() {
    figures | jq -r "$medians"' | ["what", "target", "n", "MB/s", "server s", "containerd s", "shim s"],
        (.[] | [.what, .target, .n, (.mbs | round), .server, .containerd, .shim] | map(if type == "number" then . * 100 | round / 100 else . end))
        | @tsv' | column -t -s $'\t'
}

# gates: prints a line for each check, which begins with PASS or FAIL.
gates() {
    figures | jq -r "$medians"' |
        def verdict($good): if $good then "PASS" else "FAIL" end;
        def round2: . * 100 | round / 100;
        group_by(.what)[] | select(length == 2)
        | (.[] | select(.target == "builtin")) as $b | (.[] | select(.target == "pontoon")) as $p
        | "PASS \($p.what): the bytes are those that were sent, \($p.n) and \($b.n) times",
          "\(verdict($p.mbs >= $b.mbs)) \($p.what): \($p.mbs | round) MB/s, at least \($b.mbs | round)",
          "\(verdict($p.server <= $b.server / 2)) \($p.what): \($p.server | round2) s of CPU in the server, at most \($b.server / 2 | round2)"'
}

mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -rf "$out"/[0-9]*-{pontoon,builtin}
BIN=${BIN:-$("$repo/tests/tools/build.sh" core streaming)}
build_suite
export BIN E2E_SPEED_BLOCKS=${BLOCKS:-16}
[[ -z ${CPUS:-} ]] || taskset --cpu-list --pid "$CPUS" $$ >/dev/null

number=0
for ((round = 0; round < ${ROUNDS:-2}; round++)); do
    for target in pontoon builtin builtin pontoon; do
        number=$((number + 1))
        turn $number $target
    done
done
table
[[ -n ${CHECK-yes} ]] || exit 0
lines=$(gates)
[[ -n $lines ]] || { echo "FAIL: there is no way that both have"; exit 1; }
printf '%s\n' "$lines"
! grep -q '^FAIL' <<<"$lines"
