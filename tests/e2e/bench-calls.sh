#!/usr/bin/env bash
# `make bench-calls`: how long each RPC from a pod's creation to its removal takes on two sides. Both beds exist at the same
# time and are called in turns (A B B A), one RPC at a time, so that other load of the machine affects both equally. Prints
# medians and 90th percentiles with their ratios.
#
#   LIVES=n        number of pods for each side (50)
#   A=, B=         the targets (pontoon, builtin)
#   A_BIN=, B_BIN= the daemons, to compare two builds (A=pontoon B=pontoon)
#   E2E_BIN=file   the suite's program (without it, cargo builds it)
#   CPUS=list      pins all processes to these CPUs (none)
set -euo pipefail

# shellcheck source=with-bed.sh
. "$(dirname "${BASH_SOURCE[0]}")/with-bed.sh"
# shellcheck source=built.sh
. "$(dirname "${BASH_SOURCE[0]}")/built.sh"

build_suite
[[ -z ${CPUS:-} ]] || taskset --cpu-list --pid "$CPUS" $$ >/dev/null
use_daemon "${A_BIN:-}"
bed_with_images "ba-$$" "${A:-pontoon}"
a=$BED/env
use_daemon "${B_BIN:-}"
bed_with_images "bb-$$" "${B:-builtin}"
b=$BED/env
interruptible "$E2E_BIN" --bench-calls "$a" "$b" | column -t -s $'\t'
