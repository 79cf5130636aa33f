#!/usr/bin/env bash
# `make bench-critest`: runs critest's own benchmarks on Pontoon and on containerd's built-in CRI in turns (A B B A), each
# time on a new bed, and prints a table of the medians with their ratio. Both have the same containerd, runc, CNI plugins
# and images.
#
#   ROUNDS=n     number of rounds of A B B A (1)
#   SAMPLES=n    number of samples for each benchmark in each turn (20)
#   CPUS=list    pins all processes to these CPUs (none): where cores wake each other slowly, short times are noise
#   A=, B=       the targets (pontoon, builtin); the same one twice shows the noise
#   OUT=directory    for critest's files (target/bench-critest)
#
# The table is only a report: the script does not fail because of a ratio.
set -euo pipefail

# shellcheck source=with-bed.sh
. "$(dirname "${BASH_SOURCE[0]}")/with-bed.sh"

a=${A:-pontoon} b=${B:-builtin}
samples=${SAMPLES:-20}
out=${OUT:-$repo/target/bench-critest}
bed=bc-$$

# The image that is pulled has a layer that no other image has, so that each sample fetches and unpacks that layer.
write_parameters() {
    cat >"$1" <<END
containersNumber: $samples
containersNumberParallel: 1
containerBenchmarkTimeoutSeconds: 60
podsNumber: $samples
podsNumberParallel: 1
podBenchmarkTimeoutSeconds: 60
imagesNumber: $samples
imagesNumberParallel: 1
imageBenchmarkTimeoutSeconds: 60
imagePullingBenchmarkImage: registry.k8s.io/e2e-test-images/httpd:2.4.39-4
podContainerStartBenchmarkTimeoutSeconds: 60
END
}

# turn NUMBER SIDE TARGET: writes the results to $out/NUMBER-SIDE/.
turn() {
    local dir=$out/$1-$2 target=$3
    printf 'turn %s: %s\n' "$1" "$target" >&2
    mkdir -p "$dir"
    bed_with_images "$bed" "$target" 9>&-
    # The image of all containers: pulled now, so that no sample includes its pull.
    "$BIN/crictl" --config "$BED/crictl.yaml" pull registry.k8s.io/e2e-test-images/busybox:1.29-2 >/dev/null
    if ! TMPDIR=$BED/tmp interruptible timeout --kill-after=60 600 "$BIN/critest" -benchmark --ginkgo.no-color --ginkgo.seed=1 \
        --config "$BED/crictl.yaml" --runtime-endpoint "unix://$CRI_SOCKET" --image-endpoint "unix://$CRI_SOCKET" \
        --benchmarking-params-file "$out/parameters.yaml" --benchmarking-output-dir "$dir" >"$dir/critest.log" 2>&1; then
        echo "critest failed; the end of its output:" >&2
        tail -n 30 "$dir/critest.log" >&2
        exit 1
    fi
    bed_without "$bed"
}

# samples_of SIDE: prints a line "operation<TAB>ms" for each sample. FromScratch (a pod with a container, from its creation
# to its removal) is measured once in each turn, and is only in critest's text output, as 579.9ms or 1.2s.
samples_of() {
    local file
    for file in "$out"/*-"$1"/*.json; do
        jq -r '.operationsNames as $names | .datapoints[].operationsDurationsNs | to_entries[] | "\($names[.key])\t\(.value / 1e6)"' "$file"
    done
    awk -F'|' '/create PodSandbox and container .duration./ { ms = $3 + 0; if ($3 !~ /ms *$/) ms *= 1000; print "FromScratch\t" ms }' \
        "$out"/*-"$1"/critest.log
}

# table: prints the medians of both sides.
table() {
    {
        samples_of a | sed 's/^/a\t/'
        samples_of b | sed 's/^/b\t/'
    } | jq -rRn --arg a "$a" --arg b "$b" '
        def median: sort | if length == 0 then null elif length % 2 == 1 then .[length / 2 | floor] else (.[length / 2] + .[length / 2 - 1]) / 2 end;
        def round2: . * 100 | round / 100;
        ["CreatePod", "StatusPod", "StopPod", "RemovePod", "CreateContainer", "StartContainer", "StatusContainer", "StopContainer",
         "RemoveContainer", "PullImage", "StatusImage", "RemoveImage", "ListImages", "FromScratch"] as $order
        | [inputs | split("\t") | {side: .[0], operation: .[1], ms: (.[2] | tonumber)}] | group_by(.operation)
        | map({operation: .[0].operation, a: map(select(.side == "a").ms), b: map(select(.side == "b").ms)})
        | sort_by(.operation as $o | $order | index($o) // 99)
        | ["operation", "n", $a + " ms", $b + " ms", "ratio"],
          (.[] | [.operation, (.a | length), (.a | median | round2), (.b | median | round2),
                  (if (.b | median) > 0 then (.a | median) / (.b | median) | round2 else "" end)])
        | @tsv' | column -t -s $'\t'
}

mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -rf "$out"/[0-9]*-[ab]
write_parameters "$out/parameters.yaml"
BIN=$("$repo/tests/tools/build.sh" core critest)
export BIN
[[ -z ${CPUS:-} ]] || taskset --cpu-list --pid "$CPUS" $$ >/dev/null

exec 9<"$BIN/critest"
flock --nonblock 9 || { echo "critest is running on this machine, waiting" >&2; flock 9; }

number=0
for ((round = 0; round < ${ROUNDS:-1}; round++)); do
    for side in a b b a; do
        number=$((number + 1))
        if [[ $side == a ]]; then turn $number a "$a"; else turn $number b "$b"; fi
    done
done
table
