#!/usr/bin/env bash
# `make test`: sets up the machine and runs all tests. Fails if anything failed. The last line is `N passed, N failed, N
# skipped`. Before it come the skipped tests with their reasons, the time of each stage, and the ten slowest tests.
#
#   run.sh [STAGE...]    runs only these stages after the set-up; without arguments, all of them:
STAGES=(
    units       # levels 1, 2 and 4: cargo test; does not use root's privileges to change the node
    cgroup2     # some of critest and the suite with cgroup v2, with AppArmor and with SELinux (all: make test-cgroup2)
    server      # level 3: tests/server, the daemon on a fake containerd
    kubelet     # kubelet runs pods on Pontoon and on the built-in CRI; compares the times
    critest     # the CRI conformance tests; those of streaming once more by WebSocket
    compare     # the stats of Pontoon and of the built-in CRI, compared with the cgroup's values
    images      # tests/images.rs: pulls with a real containerd and real registries
    summary     # kubelet's stats of a pod, from cAdvisor and from CRI only
    events      # kubelet with evented PLEG reports a container's exit at once
    fuzz        # each parser's fuzz target for five seconds
    suite       # level 5: tests/e2e/*.rs on a bed
    run         # `make run`, once
    node        # checks that the other stages left nothing on the node
)
# The stages that run while others do, and those others. Stages on beds share the node, but no bed. No other pair runs side
# by side: the suite, events and server have limits of half a second to two seconds, and fuzz uses all CPUs.
declare -A BESIDE=(
    # Its guests are kernels that run as processes. They compute for minutes, on one CPU each, but with a low priority: another
    # process preempts them when it wakes up. They use no network, mount or cgroup of the node, so that no other stage waits
    # for a lock that they hold. The priority still leaves them a quarter of a CPU that is busy all the time. In them the
    # limits of the suite are six times as long as usual, and those of critest half a minute for what takes some seconds.
    [cgroup2]="server kubelet critest compare images summary"
    # They wait most of the time: for kubelet's periods, for containers to end, for registries that do not answer. The limits
    # of critest, compare and images are many seconds. kubelet's is a ratio of medians, of runs on both sides in turns, and
    # allows another second.
    [kubelet]="critest compare images"
)
#
# A stage's output is in target/test-logs/STAGE.log. If the stage fails, its failed tests and the end of its log are printed.
# A stage that cannot run has failed. Each stage has a deadline. CONTRIBUTING.md says how long a whole run takes.
set -euo pipefail
exec </dev/null

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
self=$repo/tests/run.sh
logs=$repo/target/test-logs
passed=0 failed=0 skipped=0
failures=()

cd "$repo"
mkdir -p "$logs"

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

# ---- what all stages share ----------------------------------------------------------------------------------------------

# The directory of the registry that serves the tests' images to all beds, if it was started.
registry=
# A guest mounts a tmpfs on this directory, and the built-in CRI writes to it. Each of them would create it if it is missing
# and remove it at its end, while the other one still uses it.
cni=/var/lib/cni
made_cni=

share() {
    if [[ ! -d $cni ]]; then
        mkdir "$cni"
        made_cni=yes
    fi
}

remove_cni() {
    [[ -z $made_cni ]] || find "$cni" -xdev -depth -type d -empty -delete
    made_cni=
}

stop_sharing() {
    remove_cni
    [[ -n $registry ]] || return 0
    tests/images/registry.sh down "$registry" || true
    rmdir "$(dirname "$registry")" || true
    registry=
}

# ---- running and counting -----------------------------------------------------------------------------------------------

# What runs now, what has run, and the seconds that each took.
declare -A pids=() began=() limits=() took=()
order=()

# begin NAME SECONDS COMMAND...: starts it; its output goes to the log.
begin() {
    local name=$1
    began[$name]=$EPOCHSECONDS limits[$name]=$2
    shift 2
    timeout --kill-after=120 "${limits[$name]}" "$@" >"$logs/$name.log" 2>&1 &
    pids[$name]=$!
    order+=("$name")
}

# finish NAME: waits until it has ended. A signal interrupts `wait`, but not a command in the foreground.
finish() {
    local name=$1 pid=${pids[$1]} ended='' status=0
    # What ran beside something else may have ended long before. It wrote the last line of its log then.
    kill -0 "$pid" 2>/dev/null || ended=$(stat --format=%Y "$logs/$name.log")
    wait "$pid" || status=$?
    unset "pids[$name]"
    took[$name]=$((${ended:-$EPOCHSECONDS} - began[$name]))
    [[ $status != 124 && $status != 137 ]] || say "$name was stopped after ${limits[$name]} s" | tee -a "$logs/$name.log"
    return $status
}

# Ends what runs too, which cleans up by itself.
leave() {
    local status=$? pid
    trap '' INT TERM HUP
    trap - EXIT
    for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${pids[@]}"; do wait "$pid" || true; done
    stop_sharing
    take_down_leftovers
    exit $status
}
trap leave EXIT
trap 'say "interrupted"; exit 130' INT
trap 'say "stopped by a signal"; exit 143' TERM HUP

# Counters: print "PASSED FAILED SKIPPED" for a log, or nothing if only the exit status counts.
count_one() { :; }

# Sums the results of all test programs that ran; also for the log of the suite.
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

# The failed tests of test programs, with what each printed. Another program's output may follow in the log, so that its end
# need not show them.
print_failed() {
    sed -nE 's/^test (.*) \.\.\. FAILED( .*)?$/    failed: \1/p' "$1"
    awk '/^---- .* stdout ----$/ { printing = 1 } /^failures:$|^test result: / { printing = 0 }
        printing && lines++ < 100 { print "   | " $0 }' "$1"
}

launch() {
    local name=$1
    define "$name"
    say "== $name${BESIDE[$name]:+ (others run beside it; its result comes later)}"
    [[ $name != node ]] || remove_cni
    begin "$name" "$limit" "${command[@]}"
}

# conclude NAME: waits for a stage that was launched, and prints its result.
conclude() {
    local name=$1 status=0 counts p f s
    finish "$name" || status=$?
    [[ -z ${BESIDE[$name]:-} ]] || say "== $name, which ran beside others"
    define "$name"
    counts=$("$counter" "$logs/$name.log")
    read -r p f s <<<"${counts:-$((status == 0 ? 1 : 0)) 0 0}"
    # Count one failure if no test failed but the stage did (it could not run, or was stopped), or if no test passed.
    if ((f == 0)) && { ((status != 0)) || ((p == 0)); }; then f=1; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    print_skipped "$logs/$name.log"
    if ((f > 0)); then
        failures+=("$name")
        print_failed "$logs/$name.log"
        say "   the end of $logs/$name.log:"
        tail -n 60 "$logs/$name.log" | sed 's/^/   | /'
    fi
    say "   $name: $p passed, $f failed, $s skipped, ${took[$name]} s"
}

# run_stages NAME...: before each, waits for those that must not run beside it.
run_stages() {
    local name other
    for name in "$@"; do
        for other in "${!BESIDE[@]}"; do
            [[ -z ${pids[$other]:-} || " ${BESIDE[$other]} " == *" $name "* ]] || conclude "$other"
        done
        launch "$name"
        [[ -n ${BESIDE[$name]:-} ]] || conclude "$name"
    done
    for other in "${!BESIDE[@]}"; do
        [[ -z ${pids[$other]:-} ]] || conclude "$other"
    done
}

# ---- times --------------------------------------------------------------------------------------------------------------

print_stages() {
    local name sum=0
    say "the time of each stage:"
    for name in "${order[@]}"; do
        printf '    %6d s  %s\n' "${took[$name]}" "$name"
        sum=$((sum + took[$name]))
    done
    printf '    %6d s  the sum; %d s in all, because some ran side by side\n' "$sum" "$1"
}

# times_of STAGE: prints a line `SECONDS STAGE TEST`, with tabs, for each test whose time is known.
times_of() {
    local stage=$1 report
    sed -nE "s/^test (.*) \.\.\. (ok|FAILED) (<([0-9.]+)s>|\(([0-9.]+) s\))\$/\4\5\t$stage\t\1/p" "$logs/$stage.log"
    [[ $stage == critest ]] || return 0
    for report in "$logs"/critest*/critest.json; do
        [[ -s $report ]] || continue
        jq -r '.[].SpecReports[]? | select(.LeafNodeType == "It" and .RunTime > 0)
            | "\(.RunTime / 1e9)\tcritest\t\((.ContainerHierarchyTexts // []) + [.LeafNodeText] | join(" "))"' "$report"
    done
}

print_slowest() {
    local stage
    say "the ten slowest tests:"
    for stage in "$@"; do times_of "$stage"; done | LC_ALL=C sort --field-separator=$'\t' --key=1,1gr |
        awk -F '\t' 'NR <= 10 { printf "    %6.1f s  %s: %s\n", $1, $2, $3 }'
}

# ---- the set-up ---------------------------------------------------------------------------------------------------------

# prepare WHAT SECONDS COMMAND...: a step of the set-up; the script ends if it fails.
prepare() {
    local what=$1
    shift
    say "-- $what"
    begin "setup-$what" "$@"
    prepared "$what"
}

# prepared WHAT: waits for a step that was begun.
prepared() {
    local what=$1
    if ! finish "setup-$what"; then
        tail -n 40 "$logs/setup-$what.log" | sed 's/^/   | /'
        say "   the set-up failed: $what"
        finish_line 0 1 0
        exit 1
    fi
    say "   $what: ${took[setup-$what]} s"
}

# build STAGE...: compiles all that these stages need: the daemon, the tests and the fuzz targets. Each of these builds uses
# only one CPU for minutes, so they run side by side if there is memory for them.
build() {
    local available what
    available=$(awk '/^MemAvailable:/ { print int($2 / 1048576) }' /proc/meminfo)
    say "-- the daemon, the tests and the fuzz targets are built"
    begin setup-daemon 2700 cargo build --release --locked
    ((available >= 12)) || prepared daemon
    begin setup-tests 2700 "$self" --body build_tests
    ((available >= 12)) || prepared tests
    [[ " $* " != *' fuzz '* ]] || begin setup-fuzz 2700 tests/fuzz.sh --build
    for what in daemon tests fuzz; do
        [[ -z ${pids[setup-$what]:-} ]] || prepared "$what"
    done
}

# cargo's list of the test programs is for the stages, so that none of them asks cargo again.
run_build_tests() { cargo test --no-run --locked --message-format=json-render-diagnostics >"$logs/tests.json"; }

# programs: prints a line `KIND NAME PATH`, with tabs, for each test program.
programs() {
    jq -r 'select(.reason == "compiler-artifact" and .profile.test and .executable != null)
        | "\(.target.kind[0])\t\(.target.name)\t\(.executable)"' "$logs/tests.json"
}

# program NAME: prints the path of the program of tests/NAME.
program() { programs | awk -F '\t' -v name="$1" '$1 == "test" && $2 == name { print $3; found = 1 } END { exit !found }'; }

set_up() {
    local set
    prepare packages 600 tests/tools/packages.sh user-mode-linux kmod apparmor sudo \
        selinux-policy-default policycoreutils checkpolicy semodule-utils
    prepare preflight 60 tests/tools/preflight.sh
    for set in core critest kubelet streaming; do
        prepare "tools-$set" 900 tests/tools/build.sh $set
    done
    prepare images 300 tests/images/build.sh
    build "$@"
    # What was built is not built, and not looked for, again.
    BIN=$(tests/tools/build.sh core) PONTOON_BIN=${PONTOON_BIN:-$repo/target/release/pontoon} E2E_BIN=$(program e2e)
    registry=$(mktemp -d /var/tmp/pt-images.XXXXXX)/registry-$$
    prepare registry 60 tests/images/registry.sh up "$registry"
    # The last line that it printed.
    IMAGES_PORT=$(tail -n 1 "$logs/setup-registry.log")
    export BIN PONTOON_BIN E2E_BIN IMAGES_PORT
}

# ---- the stages ---------------------------------------------------------------------------------------------------------

# run_tests PROGRAM [OPTION...]: runs a test program of cargo, with its ignored tests: they need root, or programs such as a
# containerd. One of them only measures. libtest prints the time of each test with an unstable option. That of the stable
# toolchain accepts the option if RUSTC_BOOTSTRAP is set while the tests run; the build does not see the variable.
run_tests() {
    PONTOON_BIN_DIR=$BIN PONTOON_CNI_BIN=$BIN/cni RUSTC_BOOTSTRAP=1 \
        "$@" --include-ignored --skip fifo::tests::throughput -Z unstable-options --report-time
}

# All test programs except those that have a stage of their own.
run_units() {
    local status=0 line kind name path
    local -a lines
    mapfile -t lines < <(programs)
    for line in "${lines[@]}"; do
        IFS=$'\t' read -r kind name path <<<"$line"
        [[ $kind != test || " server images e2e " != *" $name "* ]] || continue
        say "== $kind $name"
        run_tests "$path" || status=1
    done
    cargo test --locked --doc || status=$?
    return $status
}

# The tests of tests/server that take half a minute to three minutes, of which they wait for nearly all. They all run at once.
LONG=(
    server::exec_outages::f12_a_command_is_deleted_however_long_that_cannot_succeed
    server::outages::f1_containerd_may_be_killed_at_any_call_of_any_verb
    server::restart::a_stop_waits_for_operations_no_longer_than_thirty_seconds
    server::take_back::f7_an_undo_of_a_container_goes_on_when_its_caller_has_waited_long_enough
    server::take_back::f7_an_undo_of_a_sandbox_goes_on_when_its_caller_has_waited_long_enough
    server::task_owner::f1_no_error_and_no_number_of_errors_is_a_reason_to_give_up
)

# The long tests, and beside them the others, as many at a time as there are CPUs.
run_server() {
    local path known long status=0
    path=$(program server)
    known=$("$path" --list --exact "${LONG[@]}" | grep -c ': test$') || true
    if ((known != ${#LONG[@]})); then
        say "only $known of the names in LONG (tests/run.sh) are tests"
        return 1
    fi
    run_tests "$path" --exact --test-threads="${#LONG[@]}" "${LONG[@]}" >"$logs/server-long.log" 2>&1 &
    long=$!
    run_tests "$path" --exact "${LONG[@]/#/--skip=}" || status=1
    wait "$long" || status=1
    cat "$logs/server-long.log"
    return $status
}

run_images() { run_tests "$(program images)"; }

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

# define NAME: sets the stage's time limit in seconds, its counter and its command.
define() {
    counter=count_one command=("$self" --body "$1")
    case $1 in
    cgroup2) limit=1800 counter=count_line command=(nice -n 5 env OUT="$logs/cgroup2" tests/e2e/test-cgroup2.sh --smoke) ;;
    units | server) limit=1200 counter=count_cargo ;;
    images) limit=300 counter=count_cargo ;;
    critest) limit=900 counter=count_critest ;;
    kubelet) limit=600 command=(env OUT="$logs/kubelet" tests/e2e/kubelet.sh --compare) ;;
    compare) limit=300 command=(env OUT="$logs/compare" tests/e2e/compare-stats.sh) ;;
    summary) limit=300 command=(env OUT="$logs/summary" tests/e2e/kubelet.sh) ;;
    events) limit=300 command=(env OUT="$logs/events" tests/e2e/kubelet.sh --events) ;;
    fuzz) limit=600 counter=count_line command=(tests/fuzz.sh 5) ;;
    suite) limit=1800 counter=count_cargo command=(env OUT="$logs/suite" tests/e2e/suite.sh) ;;
    run) limit=300 ;;
    node) limit=120 ;;
    *) return 1 ;;
    esac
}

finish_line() { printf '%d passed, %d failed, %d skipped\n' "$1" "$2" "$3"; }

# Runs the body of a stage that has no separate script, so that `timeout` can run it.
if [[ ${1:-} == --body ]]; then
    trap - EXIT INT TERM HUP
    "run_$2"
    exit
fi

# The environment of a bed must not reach the stages, which create their own beds.
unset BED BIN CRI_SOCKET CONTAINER_RUNTIME_ENDPOINT IMAGE_SERVICE_ENDPOINT CRI_CONFIG_FILE PONTOON_BED TARGET OUT IMAGES_PORT
[[ $# -gt 0 ]] || set -- "${STAGES[@]}"
for name in "$@"; do
    define "$name" || { say "unknown stage '$name': ${STAGES[*]}"; exit 2; }
done
start=$SECONDS
rm -f "$logs"/*.log
set_up "$@"
tests/e2e/nodestate.sh >"$logs/node.before"
share
run_stages "$@"
print_stages $((SECONDS - start))
print_slowest "$@"
say "$((SECONDS - start)) s in all${failures[*]:+; failed: ${failures[*]}}"
finish_line "$passed" "$failed" "$skipped"
((failed == 0))
