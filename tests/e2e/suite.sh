#!/usr/bin/env bash
# `make e2e`: runs the level-5 suite (tests/e2e/*.rs) on a bed with the images of all tests.
#
#   suite.sh [FILTER...]    runs the tests whose names contain a FILTER (without any: all tests)
#
#   TARGET=pontoon|builtin  the CRI server (pontoon)
#   OUT=directory           for the daemons' logs (target/e2e/TARGET)
#   E2E_SKIP="NAME..."      tests to skip
#   E2E_STANDING=n          number of additional pods that run during the tests and must still run at the end (0)
#   E2E_BIN=file            the suite's program (without it, cargo builds it)
set -euo pipefail

# shellcheck source=with-bed.sh
. "$(dirname "${BASH_SOURCE[0]}")/with-bed.sh"
# shellcheck source=built.sh
. "$(dirname "${BASH_SOURCE[0]}")/built.sh"

target=${TARGET:-pontoon}
out=${OUT:-$repo/target/e2e/$target}
bed=e2e-$$

save_logs() {
    [[ ! -d ${BED:-/none}/logs ]] || { mkdir -p "$out" && cp -r "$BED/logs/." "$out"; }
}

build_suite
BIN=${BIN:-$("$repo/tests/tools/build.sh" core streaming)}
export BIN
bed_with_images "$bed" "$target"
at_exit save_logs
PONTOON_BED=$BED/env "$E2E_BIN" "$@"
