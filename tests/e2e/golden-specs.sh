#!/usr/bin/env bash
# `make golden-specs`: compares the OCI specs that Pontoon and containerd's built-in CRI create from the same requests (the
# configs of tests/golden). tests/golden/differences.toml must list each difference with its reason; fails if a difference
# is not listed, or if a listed one does not exist any more.
#
#   OUT=directory           for OUT/builtin and OUT/pontoon (the specs) and OUT/differences.txt (target/golden-specs)
#   PONTOON_BIN, E2E_BIN    the programs of the daemon and the suite (without them, cargo builds them)
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=built.sh
. "$repo/tests/e2e/built.sh"
out=${OUT:-$repo/target/golden-specs}

build_daemon
build_suite
mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -rf "$out"/{builtin,pontoon}
for target in builtin pontoon; do
    OUT=$out/logs-$target TARGET=$target GOLDEN_SPECS=$out/$target "$repo/tests/e2e/suite.sh" golden_specs
done
"$E2E_BIN" --compare-specs "$out/builtin" "$out/pontoon" "$repo/tests/golden/differences.toml" >"$out/differences.txt" || {
    grep -E 'NOT LISTED|no difference any more|configs:' "$out/differences.txt"
    echo "all of them: $out/differences.txt" >&2
    exit 1
}
tail -n 1 "$out/differences.txt"
