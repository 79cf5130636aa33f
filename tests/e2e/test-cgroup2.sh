#!/usr/bin/env bash
# `make test-cgroup2`: runs critest and the level-5 suite on a kernel with cgroup v2 (User Mode Linux, cgroup2.sh), once with
# AppArmor and once with SELinux, at the same time if there are two CPUs. The last line is `N passed, N failed, N skipped`.
#
#   test-cgroup2.sh [--smoke] [FILTER...]    --smoke: a few specs and tests, in less than ten minutes
#                                            FILTER: the tests of the suite whose names contain it
#
#   TARGET=pontoon|builtin    the CRI server (pontoon)
#   LSM=apparmor|selinux      only with this security module (both)
#   PARTS="critest suite"     critest, suite or both (both)
#   FOCUS=regex SKIP=regex    critest's specs, as in critest.sh
#   OUT=directory             for the logs (target/cgroup2/TARGET)
#   PONTOON_BIN, E2E_BIN      the programs of the daemon and the suite (without them, cargo builds them)
#
# A whole run takes about an hour for each security module: the guest has one CPU and slow system calls.
set -euo pipefail
exec </dev/null

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=built.sh
. "$repo/tests/e2e/built.sh"
target=${TARGET:-pontoon}
parts=${PARTS:-critest suite}

# The specs and tests that depend on the kernel: security module, cgroups, no_new_privs and capabilities. Both guests have
# cgroup v2. The tests of stats run in the guest with SELinux, whose other tests take less time.
smoke_specs() {
    case $1 in
    apparmor) echo 'AppArmor.*should support apparmor field|NoNewPrivs|runtime should support adding capability' ;;
    selinux) echo 'SELinux.*single pod sandbox is not privileged.*(process label should have category|mount label should have category|wrong options)|SELinux.*is privileged.*process label should have correct' ;;
    esac
}

smoke_tests() {
    case $1 in
    apparmor) echo apparmor:: limits_are privileged_has ;;
    selinux) echo selinux:: limits_are stats::what_a_ pressure_is ;;
    esac
}

# ---- inside: in the guest, with one security module --------------------------------------------------------------------

inside() {
    local lsm=$1 status=0
    shift
    if [[ " $parts " == *' critest '* ]]; then
        OUT=$OUT/$lsm/critest TIMEOUT=${CRITEST_TIMEOUT:-5400} tests/e2e/critest.sh || status=1
    fi
    if [[ " $parts " == *' suite '* ]]; then
        # churn and exec_flood alone would take an hour: three hundred pods, and a thousand commands that write 20 GiB in
        # total. In cve_2023_25153 a process that holds a manifest of 64 MiB is killed: each of its pages is a mapping on the
        # host, and the host allows 65530 mappings.
        OUT=$OUT/$lsm/suite E2E_SLOWNESS=6 E2E_SKIP='churn:: exec_flood:: cve_2023_25153' tests/e2e/suite.sh "$@" || status=1
    fi
    return $status
}

# ---- outside: on the host ------------------------------------------------------------------------------------------------

# Builds everything on the host, so that the guest builds and installs nothing.
prepare() {
    BIN=$("$repo/tests/tools/build.sh" core critest streaming)
    "$repo/tests/images/build.sh" >/dev/null
    [[ $target != pontoon ]] || build_daemon
    [[ " $parts " != *' suite '* ]] || build_suite
    export BIN
}

# count LOG: prints "PASSED FAILED SKIPPED", the sums over the parts that ran in a guest; fails if a part printed no result.
count() {
    awk '
        /^critest .*: [0-9]+ passed/ { parts++; sub(/.*: /, ""); p += $1; f += $3; s += $5 + $9 }
        /^test result: / { parts++; p += $4; f += $6; s += $8 }
        END { print p + 0, f + 0, s + 0; exit parts != '"$(wc -w <<<"$parts")"' }
    ' "$1"
}

# run_with LSM CPU [FILTER...]: runs a guest; its output goes to $OUT/LSM/log.
run_with() {
    local lsm=$1 cpu=$2
    shift 2
    if [[ -n $smoke ]]; then
        # shellcheck disable=SC2046  # a list of filters
        set -- $(smoke_tests "$lsm")
        FOCUS=$(smoke_specs "$lsm")
        export FOCUS
    fi
    LSM=$lsm UML_CPU=$cpu UML_TIMEOUT=${UML_TIMEOUT:-10800} \
        "$repo/tests/e2e/cgroup2.sh" tests/e2e/test-cgroup2.sh --inside "$lsm" "$@" 2>&1 | sed --unbuffered 's/\r//g' >"$OUT/$lsm/log"
}

# finish LSM PID: prints the guest's log until the guest has ended, and adds its results to the sums.
finish() {
    local lsm=$1 pid=$2 status=0 counts p f s
    echo "== with $lsm"
    # In the background, because bash handles a signal only between commands, but a signal interrupts `wait`.
    tail --lines=+1 --follow --sleep-interval=0.5 --pid="$pid" "$OUT/$lsm/log" &
    wait $!
    wait "$pid" || status=$?
    counts=$(count "$OUT/$lsm/log") || status=1
    read -r p f s <<<"$counts"
    # No test failed, but the run did: count one failure.
    if ((f == 0 && status != 0)); then f=1; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

# Prints the CPUs that this process may use, a line for each.
cpus() {
    local cpu
    for ((cpu = 0; cpu < $(nproc --all); cpu++)); do
        ! taskset --cpu-list "$cpu" true 2>/dev/null || echo "$cpu"
    done
}

# run_all [FILTER...]: runs a guest for each security module. A guest has one CPU, so each gets its own CPU of the host.
run_all() {
    local -a modules cpus pids=()
    local index
    read -ra modules <<<"${LSM:-apparmor selinux}"
    mapfile -t cpus < <(cpus)
    for index in "${!modules[@]}"; do
        mkdir -p "$OUT/${modules[index]}"
        : >"$OUT/${modules[index]}/log"
        run_with "${modules[index]}" "${cpus[index % ${#cpus[@]}]}" "$@" &
        pids[index]=$!
        # With fewer CPUs than guests, run one guest after the other.
        ((${#cpus[@]} >= ${#modules[@]})) || wait "${pids[index]}" || true
    done
    for index in "${!modules[@]}"; do
        finish "${modules[index]}" "${pids[index]}"
    done
}

if [[ ${1:-} == --inside ]]; then
    shift
    inside "$@"
    exit
fi

smoke=
if [[ ${1:-} == --smoke ]]; then
    smoke=yes
    shift
fi
OUT=${OUT:-$repo/target/cgroup2/$target}
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
export OUT TARGET=$target PARTS=$parts
passed=0 failed=0 skipped=0
prepare
# Ends the guests in the background too: they are in this script's process group, and no other process ends them.
trap 'trap "" INT TERM HUP; kill -TERM 0; exit 143' INT TERM HUP
run_all "$@"
printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
((failed == 0))
