#!/usr/bin/env bash
# Runs the fuzz targets of fuzz/, starting from the corpus in the repository: tests/fuzz.sh [SECONDS] [TARGET...]
#
# SECONDS for each target (20); without TARGET, all targets. As many run at a time as there are CPUs: a target uses one. New
# inputs go to a second corpus in target/fuzz. A crash fails the target, and its input is written to fuzz/artifacts. The last
# line is `N passed, N failed, 0 skipped`.
#
#   tests/fuzz.sh --build    only builds cargo-fuzz, once for all checkouts, and the targets
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${PONTOON_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/pontoon}/tools/cargo-fuzz
version=0.13.2
cargo_fuzz=$cache/$version/bin/cargo-fuzz

if [ ! -x "$cargo_fuzz" ]; then
    echo "fuzz: building cargo-fuzz $version" >&2
    cargo install --quiet --locked --root "$cache/$version" cargo-fuzz@$version
fi

# The sanitizer needs unstable flags, but the compiler is the pinned stable one.
export RUSTC_BOOTSTRAP=1
cd "$root"
"$cargo_fuzz" fuzz build
[ "${1:-}" != --build ] || exit 0

seconds=${1:-20}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(basename --suffix .rs fuzz/fuzz_targets/*.rs)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# run TARGET: writes its output to $scratch/TARGET.log, and creates $scratch/TARGET.passed. Some targets write files to TMPDIR
# and read them.
run() {
    local target=$1 found=target/fuzz/$1
    mkdir -p "$found" "$scratch/$target"
    TMPDIR=$scratch/$target "$cargo_fuzz" fuzz run "$target" "$found" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=25 -rss_limit_mb=1024 -print_final_stats=0 >"$scratch/$target.log" 2>&1 || return 0
    touch "$scratch/$target.passed"
}

running=0
for target in "${targets[@]}"; do
    if ((running == $(nproc))); then
        wait -n || true
        running=$((running - 1))
    fi
    echo "fuzz: $target, ${seconds} s" >&2
    run "$target" &
    running=$((running + 1))
done
wait
failed=()
for target in "${targets[@]}"; do
    echo "fuzz: the output of $target" >&2
    cat "$scratch/$target.log" >&2
    [ -e "$scratch/$target.passed" ] || failed+=("$target")
done
echo "$((${#targets[@]} - ${#failed[@]})) passed, ${#failed[@]} failed, 0 skipped${failed[*]:+: ${failed[*]}}"
((${#failed[@]} == 0))
