#!/usr/bin/env bash
# Runs the fuzz targets of fuzz/, starting from the corpus in the repository: tests/fuzz.sh [SECONDS] [TARGET...]
#
# SECONDS for each target (20); without TARGET, all targets. New inputs go to a second corpus in target/fuzz. A crash fails
# the target, and its input is written to fuzz/artifacts. The last line is `N passed, N failed, 0 skipped`.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${PONTOON_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pontoon}/tools/cargo-fuzz
version=0.13.2
seconds=${1:-20}
shift || true

if [ ! -x "$cache/$version/bin/cargo-fuzz" ]; then
    echo "fuzz: building cargo-fuzz $version" >&2
    cargo install --quiet --locked --root "$cache/$version" cargo-fuzz@$version
fi

# The sanitizer needs unstable flags, but the compiler is the pinned stable one.
export RUSTC_BOOTSTRAP=1
# Some targets write files there and read them.
TMPDIR=$(mktemp -d)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT
cd "$root"
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(basename --suffix .rs fuzz/fuzz_targets/*.rs)
"$cache/$version/bin/cargo-fuzz" fuzz build
failed=()
for target in "${targets[@]}"; do
    echo "fuzz: $target, ${seconds} s" >&2
    found=target/fuzz/$target
    mkdir -p "$found"
    "$cache/$version/bin/cargo-fuzz" fuzz run "$target" "$found" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=25 -rss_limit_mb=1024 -print_final_stats=0 || failed+=("$target")
done
echo "$((${#targets[@]} - ${#failed[@]})) passed, ${#failed[@]} failed, 0 skipped${failed[*]:+: ${failed[*]}}"
((${#failed[@]} == 0))
