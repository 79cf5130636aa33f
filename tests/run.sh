#!/usr/bin/env bash
# `make test`: sets up the machine and runs all tests. Fails if anything failed. The last line is `N passed, N failed, N
# skipped`; the skipped tests and the reasons are printed before it.
#
#   run.sh [STAGE...]    runs only these stages after the set-up; without arguments, all of them:
STAGES=(
    units       # levels 1 to 4: cargo test; does not use root's privileges to change the node
    fuzz        # each parser's fuzz target for five seconds
    suite       # level 5: tests/e2e/*.rs on a bed
    critest     # the CRI conformance tests; those of streaming once more by WebSocket
    kubelet     # kubelet runs pods on Pontoon and on the built-in CRI; compares the times
    events      # kubelet with evented PLEG reports a container's exit at once
    summary     # kubelet's stats of a pod, from cAdvisor and from CRI only
    compare     # the stats of Pontoon and of the built-in CRI, compared with the cgroup's values
    run         # `make run`, once
    cgroup2     # some of critest and the suite with cgroup v2, with AppArmor and with SELinux (all: make test-cgroup2)
    node        # checks that the other stages left nothing on the node
)
#
# A stage's output is in target/test-logs/STAGE.log. If the stage fails, its failed tests and the end of its log are printed.
# A stage that cannot run has failed. Each stage has a deadline. A whole run takes less than an hour.
set -euo pipefail
exec </dev/null

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
logs=$repo/target/test-logs
passed=0 failed=0 skipped=0
failures=()
running=

cd "$repo"
mkdir -p "$logs"
# The environment of a bed must not reach the stages, which create their own beds.
unset BED BIN CRI_SOCKET CONTAINER_RUNTIME_ENDPOINT IMAGE_SERVICE_ENDPOINT CRI_CONFIG_FILE PONTOON_BED TARGET OUT

say() { printf '%s\n' "$*"; }

# ---- leftovers on the node ----------------------------------------------------------------------------------------------

# Removes the beds and registries of stages that were killed; other stages remove theirs themselves. A bed's name contains
# the pid of the script that created it.
take_down_leftovers() {
    local name directory
    tests/e2e/bed.sh list | cut -f2 | while read -r name; do
        is_orphan "$name" || continue
        say "bed $name still stood"
        tests/e2e/bed.sh down "$name"
    done
    find /var/tmp -maxdepth 2 -path '/var/tmp/pt-images.*/registry-*' | while read -r directory; do
        is_orphan "$directory" || continue
        say "registry $directory still stood"
        tests/images/registry.sh down "$directory"
        rmdir "$(dirname "$directory")" || true
    done
}

# is_orphan NAME-PID: whether that process has ended. Fails for other names: beds that were created by hand.
is_orphan() { [[ $1 =~ -([0-9]+)$ && ! -e /proc/${BASH_REMATCH[1]} ]]; }

# Ends the running stage too, which cleans up by itself.
leave() {
    local status=$?
    trap '' INT TERM HUP
    trap - EXIT
    if [[ -n $running ]]; then
        kill -TERM "$running" 2>/dev/null || true
        wait "$running" || true
    fi
    take_down_leftovers
    exit $status
}
trap leave EXIT
trap 'say "interrupted"; exit 130' INT
trap 'say "stopped by a signal"; exit 143' TERM HUP

# ---- running and counting -----------------------------------------------------------------------------------------------

# run_logged NAME SECONDS COMMAND...: writes the output to the log. Runs it in the background, because a signal interrupts
# `wait`, but not a command in the foreground.
run_logged() {
    local name=$1 seconds=$2 status=0
    shift 2
    timeout --kill-after=120 "$seconds" "$@" >"$logs/$name.log" 2>&1 &
    running=$!
    wait "$running" || status=$?
    running=
    [[ $status != 124 && $status != 137 ]] || say "$name was stopped after $seconds s" | tee -a "$logs/$name.log"
    return $status
}

# Counters: print "PASSED FAILED SKIPPED" for a log, or nothing if only the exit status counts.
count_one() { :; }

# Sums the results of all test programs that cargo ran; also for the log of the suite.
count_cargo() {
    awk '/^test result: / { passed += $4; failed += $6; skipped += $8; seen = 1 } END { if (seen) print passed, failed, skipped }' "$1"
}

count_critest() {
    sed -nE 's/^critest .*: ([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped by critest, ([0-9]+) skipped by us.*/\1 \2 \3 \4/p' "$1" |
        awk '{ passed += $1; failed += $2; skipped += $3 + $4; seen = 1 } END { if (seen) print passed, failed, skipped }'
}

# For a script whose last line has the form of this script's.
count_line() { sed -nE 's/^([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped.*/\1 \2 \3/p' "$1" | tail -n 1; }

print_skipped() {
    sed -nE 's/^test (.*) \.\.\. ignored(, (.*))?$/    skipped: \1 (\3)/p; s/^skipped( by us)? +/    skipped: /p' "$1"
}

# The failed tests of cargo's test programs, with what each printed. Another program's output may follow in the log, so that
# its end need not show them.
print_failed() {
    sed -nE 's/^test (.*) \.\.\. FAILED$/    failed: \1/p' "$1"
    awk '/^---- .* stdout ----$/ { printing = 1 } /^failures:$|^test result: / { printing = 0 }
        printing && lines++ < 100 { print "   | " $0 }' "$1"
}

# stage NAME SECONDS COUNTER COMMAND...
stage() {
    local name=$1 seconds=$2 counter=$3 start=$SECONDS status=0 counts p f s
    shift 3
    say "== $name"
    run_logged "$name" "$seconds" "$@" || status=$?
    counts=$("$counter" "$logs/$name.log")
    read -r p f s <<<"${counts:-$((status == 0 ? 1 : 0)) 0 0}"
    # Count one failure if no test failed but the stage did (it did not compile, could not run, or was stopped), or if no test
    # passed.
    if ((f == 0)) && { ((status != 0)) || ((p == 0)); }; then f=1; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    print_skipped "$logs/$name.log"
    if ((f > 0)); then
        failures+=("$name")
        print_failed "$logs/$name.log"
        say "   the end of $logs/$name.log:"
        tail -n 60 "$logs/$name.log" | sed 's/^/   | /'
    fi
    say "   $name: $p passed, $f failed, $s skipped, $((SECONDS - start)) s"
}

# ---- the set-up ---------------------------------------------------------------------------------------------------------

# prepare WHAT SECONDS COMMAND...: a step of the set-up; the script ends if it fails.
prepare() {
    local what=$1 seconds=$2 start=$SECONDS
    shift 2
    say "-- $what"
    if ! run_logged "setup-$what" "$seconds" "$@"; then
        tail -n 40 "$logs/setup-$what.log" | sed 's/^/   | /'
        say "   the set-up failed: $what"
        finish_line 0 1 0
        exit 1
    fi
    say "   $((SECONDS - start)) s"
}

set_up() {
    local set
    prepare packages 600 tests/tools/packages.sh user-mode-linux kmod apparmor sudo \
        selinux-policy-default policycoreutils checkpolicy semodule-utils
    prepare preflight 60 tests/tools/preflight.sh
    for set in core critest kubelet streaming; do
        prepare "tools-$set" 900 tests/tools/build.sh $set
    done
    prepare images 300 tests/images/build.sh
    prepare daemon 1200 cargo build --release --locked
    prepare tests 1200 cargo test --no-run --locked
}

# ---- the stages ---------------------------------------------------------------------------------------------------------

# All test programs except the suite, which has its own stage.
run_units() {
    local bin file status=0
    # For the tests that need real programs, such as a containerd.
    bin=$(tests/tools/build.sh core)
    export PONTOON_BIN_DIR=$bin PONTOON_CNI_BIN=$bin/cni
    local -a targets=(--lib --bins)
    for file in tests/*.rs; do
        [[ ! -e $file ]] || targets+=(--test "$(basename "$file" .rs)")
    done
    # The ignored tests are those that need root or such programs, and one that only measures.
    cargo test --locked --no-fail-fast "${targets[@]}" -- --include-ignored --skip fifo::tests::throughput || status=$?
    cargo test --locked --doc || status=$?
    return $status
}

# nothing_came BEFORE AFTER: fails if AFTER has lines that BEFORE does not have. Lines that disappeared do not count: they
# belong to other users of the machine.
nothing_came() {
    local came
    came=$(comm -13 <(sort "$1") <(sort "$2"))
    [[ -z $came ]] || { printf 'left on the node:\n%s\n' "$came"; return 1; }
}

run_critest() {
    local status=0
    OUT=$logs/critest TIMEOUT=600 tests/e2e/critest.sh || status=$?
    OUT=$logs/critest-websocket TIMEOUT=200 FOCUS=Streaming WEBSOCKET=1 tests/e2e/critest.sh || status=$?
    return $status
}

# Checks too that `make run` leaves nothing on the node.
run_run() {
    tests/e2e/nodestate.sh >"$logs/node.before-run"
    ONCE=1 tests/e2e/run.sh
    tests/e2e/nodestate.sh >"$logs/node.after-run"
    nothing_came "$logs/node.before-run" "$logs/node.after-run"
}

run_node() {
    take_down_leftovers
    tests/e2e/nodestate.sh >"$logs/node.after"
    nothing_came "$logs/node.before" "$logs/node.after"
}

run_stage() {
    case $1 in
    units) stage units 1500 count_cargo "$repo/tests/run.sh" --body units ;;
    fuzz) stage fuzz 600 count_line tests/fuzz.sh 5 ;;
    suite) stage suite 1800 count_cargo env OUT="$logs/suite" tests/e2e/suite.sh ;;
    critest) stage critest 900 count_critest "$repo/tests/run.sh" --body critest ;;
    kubelet) stage kubelet 600 count_one env OUT="$logs/kubelet" tests/e2e/kubelet.sh --compare ;;
    events) stage events 300 count_one env OUT="$logs/events" tests/e2e/kubelet.sh --events ;;
    summary) stage summary 300 count_one env OUT="$logs/summary" tests/e2e/kubelet.sh ;;
    compare) stage compare 300 count_one env OUT="$logs/compare" tests/e2e/compare-stats.sh ;;
    run) stage run 300 count_one "$repo/tests/run.sh" --body run ;;
    cgroup2) stage cgroup2 900 count_line env OUT="$logs/cgroup2" tests/e2e/test-cgroup2.sh --smoke ;;
    node) stage node 120 count_one "$repo/tests/run.sh" --body node ;;
    *) say "unknown stage '$1': ${STAGES[*]}"; exit 2 ;;
    esac
}

finish_line() { printf '%d passed, %d failed, %d skipped\n' "$1" "$2" "$3"; }

# Runs the body of a stage that has no separate script, so that `timeout` can run it.
if [[ ${1:-} == --body ]]; then
    trap - EXIT INT TERM HUP
    "run_$2"
    exit
fi

[[ $# -gt 0 ]] || set -- "${STAGES[@]}"
for name in "$@"; do
    [[ " ${STAGES[*]} " == *" $name "* ]] || { say "unknown stage '$name': ${STAGES[*]}"; exit 2; }
done
start=$SECONDS
rm -f "$logs"/*.log
set_up
tests/e2e/nodestate.sh >"$logs/node.before"
for name in "$@"; do
    run_stage "$name"
done
say "$((SECONDS - start)) s in all${failures[*]:+; failed: ${failures[*]}}"
finish_line "$passed" "$failed" "$skipped"
((failed == 0))
