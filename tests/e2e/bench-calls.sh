#!/usr/bin/env bash
# `make bench-calls`: how long each call of a pod's life takes on two sides, whose beds stand side by side and are called in turns
# (A B B A), one call at a time: what else the machine does falls on both. Prints medians and p90 with their ratios.
#
#   LIVES=n        pods a side (50)
#   A=, B=         the targets (pontoon, builtin)
#   A_BIN=, B_BIN= the daemons, to compare two builds (A=pontoon B=pontoon)
#   E2E_BIN=file   the suite, when it is built already (cargo builds it)
#   CPUS=list      pin everything to these (none)
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
