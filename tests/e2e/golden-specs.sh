#!/usr/bin/env bash
# `make golden-specs`: the OCI specs that Pontoon and containerd's built-in CRI make of the same requests (the configs of
# tests/golden), and how they differ. Every difference has to be listed with its reason in tests/golden/differences.toml;
# fails when one is not, or when a listed one is no longer there.
#
#   OUT=directory           specs in OUT/builtin and OUT/pontoon, OUT/differences.txt (target/golden-specs)
#   PONTOON_BIN, E2E_BIN    the daemon and the suite, when they are built already (cargo builds them)
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
