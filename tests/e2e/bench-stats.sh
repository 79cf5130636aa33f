#!/usr/bin/env bash
# `make bench-stats` and `make bench-idle`: the cost of stats with many pods, on Pontoon and then on containerd's built-in
# CRI, each on a new bed with the same containerd, runc, CNI plugins and image.
#
#   bench-stats.sh          medians of ListContainerStats, ListPodSandboxStats (at most 0.10 of the built-in CRI's) and
#                           ListPodSandboxMetrics (at most 0.01), and the daemon's RssAnon (at most 15 MB)
#   bench-stats.sh idle     CPU time of containerd and the daemon while a client polls as kubelet does, less that of
#                           containerd without any CRI: at most 0.15 of the built-in CRI's
#
#   PODS=n            number of pods for each side (100)
#   SECONDS_IDLE=n    seconds of polling (300)
#   A=, B=            the targets (pontoon, builtin); the limits apply only to these two in this order
#   A_BIN=, B_BIN=    the daemons, to compare two builds (A=pontoon B=pontoon)
#   CPUS=list         pins all processes to these CPUs (none)
#   E2E_BIN=file      the suite's program (without it, cargo builds it)
#   OUT=directory     for the figures and the daemons' logs (target/bench-stats)
set -euo pipefail

# shellcheck source=with-bed.sh
. "$(dirname "${BASH_SOURCE[0]}")/with-bed.sh"
# shellcheck source=built.sh
. "$(dirname "${BASH_SOURCE[0]}")/built.sh"

what=${1:-stats}
a=${A:-pontoon} b=${B:-builtin}
out=${OUT:-$repo/target/bench-stats}
bed=bs-$$
case $what in
stats | idle) ;;
*) echo "bench-stats.sh [idle], not '$what'" >&2; exit 2 ;;
esac

# side SIDE TARGET DAEMON: writes the figures to $out/SIDE.tsv.
side() {
    echo "$what on $2" >&2
    use_daemon "$3"
    bed_with_images "$bed" "$2"
    if ! PONTOON_BED=$BED/env interruptible "$E2E_BIN" --bench "$what" >"$out/$1.tsv"; then
        rm -rf "$out/logs-$1" && cp -r "$BED/logs" "$out/logs-$1"
        exit 1
    fi
    bed_without "$bed"
}

figure() { awk -F'\t' -v name="$2" '$1 == name { print $2 }' "$out/$1.tsv"; }

failed=0
# at_most WHAT VALUE LIMIT: prints whether VALUE is within LIMIT; otherwise the script fails at its end.
at_most() {
    if awk -v value="$2" -v limit="$3" 'BEGIN { exit !(value <= limit) }'; then
        printf 'ok      %s: %s, at most %s\n' "$1" "$2" "$3"
    else
        printf 'FAILED  %s: %s, at most %s\n' "$1" "$2" "$3"
        failed=1
    fi
}

ratio() { awk -v a="$1" -v b="$2" 'BEGIN { printf "%.4f", (b > 0) ? a / b : 9 }'; }

table() {
    {
        printf 'figure\t%s\t%s\tratio\n' "$a" "$b"
        awk -F'\t' 'NR == FNR { a[$1] = $2; order[++n] = $1; next } { b[$1] = $2; if (!($1 in a)) order[++n] = $1 }
            END { for (i = 1; i <= n; i++) { k = order[i]
                printf "%s\t%s\t%s\t%s\n", k, a[k] == "" ? "-" : a[k], b[k] == "" ? "-" : b[k],
                    (k in a && b[k] > 0) ? sprintf("%.3f", a[k] / b[k]) : "-" } }' "$out/a.tsv" "$out/b.tsv"
    } | column -t -s $'\t'
}

gates() {
    if [[ $what == stats ]]; then
        local call
        for call in ListContainerStats ListPodSandboxStats; do
            at_most "$call, of $b's time" "$(ratio "$(figure a $call)" "$(figure b $call)")" 0.10
        done
        at_most "ListPodSandboxMetrics, of $b's time" "$(ratio "$(figure a ListPodSandboxMetrics)" "$(figure b ListPodSandboxMetrics)")" 0.01
    else
        # The built-in CRI runs inside containerd, so the CPU time of containerd without any CRI is subtracted from both.
        local alone mine others
        alone=$(figure a 'CPU of containerd alone')
        mine=$(awk -v all="$(figure a 'CPU polled')" -v alone="$alone" 'BEGIN { print all - alone }')
        others=$(awk -v all="$(figure b 'CPU polled')" -v alone="$alone" 'BEGIN { print all - alone }')
        printf 'CPU less what containerd takes alone: %s %s s, %s %s s\n' "$a" "$mine" "$b" "$others"
        at_most "idle, of $b's CPU" "$(ratio "$mine" "$others")" 0.15
    fi
    at_most 'RssAnon in KiB' "$(figure a RssAnon)" 15000
}

mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -f "$out"/[ab].tsv
build_suite
[[ -z ${CPUS:-} ]] || taskset --cpu-list --pid "$CPUS" $$ >/dev/null
side a "$a" "${A_BIN:-}"
side b "$b" "${B_BIN:-}"
table
[[ $a/$b != pontoon/builtin ]] || gates
exit $failed
