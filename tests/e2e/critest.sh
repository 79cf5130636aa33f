#!/usr/bin/env bash
# `make critest`: runs the CRI conformance tests against Pontoon or containerd's built-in CRI. Fails if a spec fails, or if
# no spec ran.
#
#   TARGET=pontoon|builtin   the CRI server (pontoon)
#   FOCUS=regex SKIP=regex   run, or skip, the specs whose full names match
#   WEBSOCKET=1              exec, attach and port-forward by WebSocket instead of SPDY
#   OUT=directory            for critest.json, junit.xml, critest.log and the daemons' logs (target/critest/TARGET)
#   TIMEOUT=seconds          for the whole run of critest (1800)
set -euo pipefail

# shellcheck source=with-bed.sh
. "$(dirname "${BASH_SOURCE[0]}")/with-bed.sh"

target=${TARGET:-pontoon}
out=${OUT:-$repo/target/critest/$target}
timeout=${TIMEOUT:-1800}
bed=ct-$$

# The specs that are skipped for each target: a regex of names, and the reason.
EXCLUDE=(
    'public image with digest should be pulled and removed'
    'its digest is of an image that only the public registry has'
    'runtime should support MaskedPaths'
    "it masks /bin/ls, but the shell of Debian's busybox runs an ls of its own; a test of ours has masked paths"
    '\[k8s\.io\] NRI '
    'plugins of NRI are not called yet'
)

excluded=("${EXCLUDE[@]}")
[[ -z ${SKIP:-} ]] || excluded+=("$SKIP" "SKIP=$SKIP")

run_critest() {
    local index status=0
    local -a options=(--ginkgo.no-color --ginkgo.json-report="$out/critest.json" --ginkgo.junit-report="$out/junit.xml")
    for ((index = 0; index < ${#excluded[@]}; index += 2)); do
        options+=(--ginkgo.skip="${excluded[index]}")
    done
    [[ -z ${FOCUS:-} ]] || options+=(--ginkgo.focus="$FOCUS")
    [[ -z ${WEBSOCKET:-} ]] || options+=(--websocket-exec --websocket-attach --websocket-portforward)
    # On SIGTERM ginkgo prints the name of the running spec, cleans up after it and still writes its reports. critest leaves
    # the log directories of its pods in TMPDIR.
    TMPDIR=$BED/tmp interruptible timeout --kill-after=60 "$timeout" \
        "$BIN/critest" --config "$BED/crictl.yaml" --runtime-endpoint "unix://$CRI_SOCKET" --image-endpoint "unix://$CRI_SOCKET" \
        "${options[@]}" >"$out/critest.log" 2>&1 || status=$?
    [[ $status != 124 ]] || echo "critest was stopped after $timeout s"
    return $status
}

# specs FILTER: prints the full names and messages of the specs that match.
specs() {
    jq -r '.[].SpecReports[] | select(.LeafNodeType == "It") | . + {name: ((.ContainerHierarchyTexts + [.LeafNodeText]) | join(" "))}
        | select('"$1"') | "\(.name)\t\(.Failure.Message // "" | split("\n")[0])"' "$out/critest.json" | sort
}

count() { specs "$1" | wc -l; }

# Specs that ginkgo filtered have no message; specs that skipped themselves have a message with the reason.
failed='.State == "failed" or .State == "panicked" or .State == "interrupted" or .State == "timedout" or .State == "aborted"'
filtered='.State == "skipped" and (.Failure.Message // "") == "" and (.name | test("benchmark") | not)'
skipped_by_critest='.State == "skipped" and (.Failure.Message // "") != ""'

# Prints the specs that ginkgo filtered because of `excluded`, with the reasons. The other filtered specs do not match FOCUS.
print_skipped_by_us() {
    local index name
    specs "$filtered" | cut -f1 | while read -r name; do
        [[ $name =~ ${FOCUS:-} ]] || continue
        for ((index = 0; index < ${#excluded[@]}; index += 2)); do
            if [[ $name =~ ${excluded[index]} ]]; then
                printf 'skipped by us  %s (%s)\n' "$name" "${excluded[index + 1]}"
                break
            fi
        done
    done
}

print_results() {
    local name message
    specs "$skipped_by_critest" | while IFS=$'\t' read -r name message; do
        printf 'skipped        %s (%s)\n' "$name" "$message"
    done
    print_skipped_by_us
    specs "$failed" | while IFS=$'\t' read -r name message; do
        printf 'FAILED         %s (%s)\n' "$name" "$message"
    done
    # A failed BeforeSuite or similar node is not a spec and has no name.
    jq -r '.[] | (.SpecialSuiteFailureReasons // [])[], (.SpecReports[] | select(.LeafNodeType != "It" and .State == "failed") |
        "\(.LeafNodeType): \(.Failure.Message)")' "$out/critest.json" | grep -v '^Detected' || true
    printf '%s on %s: %d passed, %d failed, %d skipped by critest, %d skipped by us, %d s\n' "critest $version" "$target" \
        "$(count '.State == "passed"')" "$(count "$failed")" "$(count "$skipped_by_critest")" "$(print_skipped_by_us | wc -l)" "$1"
}

mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -f "$out"/{critest.json,junit.xml,critest.log}
BIN=${BIN:-$("$repo/tests/tools/build.sh" core critest)}
export BIN
version=$("$BIN/critest" --version 2>/dev/null | sed -n 's/^critest version: //p')

# critest uses the fixed host ports 12000 to 12003, so only one run at a time is possible on a machine. Any file that is not
# removed can serve as the lock.
exec 9<"$BIN/critest"
flock --nonblock 9 || { echo "another critest is running on this machine, waiting" >&2; flock 9; }

# The bed does not inherit the lock: its processes may live longer than this script if that is killed.
bed_with_images "$bed" "$target" 9>&-
start=$SECONDS status=0
run_critest || status=$?
rm -rf "$out/logs"
cp -r "$BED/logs" "$out/logs"
if [[ ! -s $out/critest.json ]]; then
    echo "critest ended with $status and no report; the end of its output:" >&2
    tail -n 40 "$out/critest.log" >&2
    exit 1
fi
print_results $((SECONDS - start))
[[ $status == 0 ]] || echo "failures, with their steps: $out/critest.log"
if [[ $(count '.State == "passed"') == 0 ]]; then
    echo "no spec ran: FOCUS=${FOCUS:-} SKIP=${SKIP:-}" >&2
    exit 1
fi
exit $status
