#!/usr/bin/env bash
# kubelet, without a cluster, runs a static pod on Pontoon or on containerd's built-in CRI: an init container, nginx with an
# HTTP readiness and an exec liveness probe, and a second container that writes its page on a shared emptyDir. It must become
# Ready, serve the page, show its logs through kubelet's API, and end within its grace period when its manifest is removed;
# exec, attach and port-forward go through kubelet's API by SPDY and by WebSocket, on either target. kubelet's /stats/summary and
# /metrics/cadvisor must have what it uses, from cAdvisor and (with the feature gate PodAndContainerStatsFromCRI) from CRI alone.
#
#   kubelet.sh                 a run without and a run with the gate; prints the time from manifest to Ready
#   kubelet.sh --compare       three runs of five pods on each target, in turns; fails when Pontoon's median is above 1.25
#                              times the built-in's + 1 s
#   kubelet.sh --events        with the feature gate EventedPLEG: five containers end, and each time kubelet's status of the pod
#                              says so within 500 ms, after the event had it look at that pod (kubelet 1.37 or newer)
#   TARGET=pontoon|builtin     for one run
#   A=, B=                     the two that --compare compares (pontoon, builtin)
#   GRACE=seconds              the pod's grace period, within which it must end (10)
#   OUT=directory              for kubelet.log and the daemons' logs (target/kubelet/TARGET)
#   KUBELET=file               another kubelet than the pinned one, such as an older one
#
# kubelet's cAdvisor dials containerd itself, at /run/containerd/containerd.sock, and a bed's containerd is elsewhere. kubelet
# has a link there, as README says: in a mount namespace of its own, so that beds side by side do not meet, a containerd of
# the machine's is hidden and not replaced, and nothing stays. kubelet before 1.37 has the flag --containerd instead. With
# stats from CRI it needs neither, and finds nothing there.
set -euo pipefail

# shellcheck source=with-bed.sh
. "$(dirname "${BASH_SOURCE[0]}")/with-bed.sh"

grace=${GRACE:-10}
node=bed
bed=kl-$$
ready_times=
gates='{}'
more_options=()
check_stats=
stats_from_cri=false
declare -A sessions_checked=()

say() { printf 'kubelet: %s\n' "$*" >&2; }
fail() { say "FAILED: $*"; exit 1; }

# ---- what kubelet does to a node and has no option against --------------------------------------------------------------

kernel_settings=(vm.overcommit_memory vm.panic_on_oom kernel.panic kernel.panic_on_oops kernel.keys.root_maxkeys kernel.keys.root_maxbytes)
fixed_directories=(/var/lib/kubelet /var/lib/kubelet/device-plugins /var/log/containers)

note_node() {
    local directory
    sysctl --ignore "${kernel_settings[@]}" >"$with_scratch/sysctls"
    for directory in "${fixed_directories[@]}"; do
        [[ ! -e $directory ]] || printf '%s\n' "$directory"
    done >"$with_scratch/directories"
}

restore_node() {
    local index directory
    sysctl -q -p "$with_scratch/sysctls" >/dev/null || say "cannot restore $(tr '\n' ' ' <"$with_scratch/sysctls")"
    for ((index = ${#fixed_directories[@]} - 1; index >= 0; index--)); do
        directory=${fixed_directories[index]}
        grep -qxF "$directory" "$with_scratch/directories" || [[ ! -d $directory ]] || remove_fixed "$directory"
    done
}

# Only what kubelet is known to put there, and only what is left of it.
remove_fixed() {
    rm -f "$1/kubelet.sock" "$1/DEPRECATION"
    find "$1" -maxdepth 1 -type l -name "web*-${node}_*" -delete
    rmdir "$1" || say "$1 is not empty: $(ls "$1")"
}

# ---- kubelet ------------------------------------------------------------------------------------------------------------

free_port() {
    local port
    while port=$((RANDOM % 10000 + 20000)); (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    printf '%s\n' "$port"
}

# kubelet wants its cgroup root to be there, in each hierarchy on cgroup v1. A new cpuset has no CPU until it is given some.
make_cgroup_root() {
    local hierarchy file
    if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
        mkdir -p "/sys/fs/cgroup$CGROUP_PARENT"
        sed 's/[^ ]*/+&/g' "/sys/fs/cgroup$CGROUP_PARENT/cgroup.controllers" >"/sys/fs/cgroup$CGROUP_PARENT/cgroup.subtree_control"
        return
    fi
    while read -r hierarchy; do
        mkdir -p "$hierarchy$CGROUP_PARENT"
        for file in cpuset.mems cpuset.cpus; do
            [[ ! -e $hierarchy/$file ]] || cat "$hierarchy/$file" >"$hierarchy$CGROUP_PARENT/$file"
        done
    done < <(awk '$3 == "cgroup" { print $2 }' /proc/self/mounts)
}

write_config() {
    cat >"$BED/kubelet/config.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$CRI_SOCKET
staticPodPath: $BED/kubelet/manifests
podLogsDir: $BED/kubelet/logs
volumePluginDir: $BED/kubelet/plugins
registerNode: false
address: 127.0.0.1
port: $port
healthzPort: 0
readOnlyPort: 0
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: $CGROUP_PARENT
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
# Without it kubelet 1.36 has no file system in /stats/summary, and so no summary at all.
localStorageCapacityIsolation: $([[ -n $check_stats ]] && echo true || echo false)
evictionHard: {memory.available: 10Mi}
# A full disk of the machine must not start the collection of images.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
makeIPTablesUtilChains: false
oomScoreAdj: $(</proc/self/oom_score_adj)
featureGates: $gates
END
}

# has_containerd_flag KUBELET: `Kubernetes v1.36.3`; 1.37 refuses to start with it.
has_containerd_flag() { (($("$1" --version | sed -nE 's/^Kubernetes v1\.([0-9]+)\..*/\1/p') < 37)); }

# with_run_containerd DIRECTORY COMMAND...: runs it where that directory is /run/containerd. What it mounts below
# $BED/kubelet comes through to the containers, and nothing else does.
with_run_containerd() {
    mkdir -p /run/containerd
    # shellcheck disable=SC2016  # it expands there
    exec unshare --mount --propagation unchanged bash -euc '
        mount --make-private "$(findmnt --noheadings --output TARGET --target /run/containerd)"
        mount --bind "$1" /run/containerd
        exec "${@:2}"' - "$@"
}

# No file of it outside $BED: root, certificates, logs of pods.
start_kubelet() {
    local -a command=("$kubelet_program" --config="$BED/kubelet/config.yaml" --root-dir="$BED/kubelet/root"
        --cert-dir="$BED/kubelet/certs" --hostname-override="$node" "${more_options[@]}")
    port=$(free_port)
    mkdir -p "$BED"/kubelet/{manifests,logs,plugins,root,certs,run-containerd}
    make_cgroup_root
    write_config
    mount --bind "$BED/kubelet" "$BED/kubelet"
    mount --make-shared "$BED/kubelet"
    if [[ $stats_from_cri == false ]]; then
        if has_containerd_flag "$kubelet_program"; then
            command+=(--containerd="$CONTAINERD_ADDRESS")
        else
            ln -sf "$CONTAINERD_ADDRESS" "$BED/kubelet/run-containerd/containerd.sock"
        fi
    fi
    (with_run_containerd "$BED/kubelet/run-containerd" setsid "${command[@]}") >"$BED/logs/kubelet.log" 2>&1 9>&- &
    kubelet=$!
    until api healthz >/dev/null; do
        kill -0 $kubelet 2>/dev/null || fail "it ended: $(grep -E '^[EF]' "$BED/logs/kubelet.log" | tail -n 3)"
        sleep 0.1
    done
}

# Ends it and what it mounted; pods that still run end with the bed.
stop_kubelet() {
    local turns=0 path
    if [[ -n ${kubelet:-} ]]; then
        kill "$kubelet" 2>/dev/null || true
        while kill -0 "$kubelet" 2>/dev/null; do
            turns=$((turns + 1))
            ((turns != 200)) || kill -KILL "$kubelet"
            sleep 0.05
        done
        wait "$kubelet" || true
        kubelet=
    fi
    awk -v root="${BED:-/none}/kubelet" 'index($5 "/", root "/") == 1 { print $5 }' /proc/self/mountinfo | sort -r | while read -r path; do
        umount --lazy "$path" || true
    done
    restore_node
}

api() { curl --silent --insecure --fail --max-time 5 "https://127.0.0.1:$port/$1"; }

# ---- the pod ------------------------------------------------------------------------------------------------------------

# write_manifest FILE NAME. The writer waits in the background, so that its shell runs the trap at once.
write_manifest() {
    cat >"$1" <<END
apiVersion: v1
kind: Pod
metadata: {name: $2, namespace: default}
spec:
  terminationGracePeriodSeconds: $grace
  initContainers:
  - name: init
    image: registry.k8s.io/e2e-test-images/busybox:1.29-2
    command: [sh, -c, 'echo made by init >/page/init; echo init is done']
    volumeMounts: [{name: page, mountPath: /page}]
  containers:
  - name: nginx
    image: registry.k8s.io/e2e-test-images/nginx:1.14-2
    ports: [{containerPort: 80}]
    readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
    livenessProbe: {exec: {command: [pidof, nginx]}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 5}
    volumeMounts: [{name: page, mountPath: /usr/share/nginx/html}]
  - name: writer
    image: registry.k8s.io/e2e-test-images/busybox:1.29-2
    command: [sh, -c, 'trap "echo writer ends; exit 0" TERM; echo page by writer >/page/index.html; echo page is written; sleep 3600 & wait']
    volumeMounts: [{name: page, mountPath: /page}]
  volumes: [{name: page, emptyDir: {}}]
END
}

# field JQ: of the pod's status. ready is asked for often, so it is one string.
field() { api pods | jq -r ".items[]? | select(.metadata.name == \"$pod\") | .status | $1"; }

now_ms() { date +%s%3N; }

# within SECONDS WHAT COMMAND...: until it succeeds.
within() {
    local deadline=$(($(now_ms) + $1 * 1000)) what=$2
    shift 2
    until "$@"; do
        (($(now_ms) < deadline)) || fail "$what: not within the time; the pod: $(field '[.phase, .conditions, .containerStatuses]' 2>/dev/null | jq -c .)"
        sleep 0.05
    done
}

is_ready() { [[ $(field '[.phase, (.conditions[]? | select(.type == "Ready").status)] | join(" ")') == 'Running True' ]]; }
# What the runtime has, and not only what kubelet thinks.
is_gone() {
    local phase containers
    phase=$(field .phase) && containers=$("$BIN/crictl" --config "$BED/crictl.yaml" ps --quiet) && [[ -z $phase$containers ]]
}

# log CONTAINER TEXT: is in what kubelet's API gives.
log_has() { api "containerLogs/default/$pod/$1" | grep -qF "$2"; }

expect() { [[ $2 == "$3" ]] || fail "$1 is '$2', not '$3'"; }

check_running_pod() {
    local ip
    ip=$(field .podIP)
    expect 'the page' "$(curl --silent --max-time 5 "http://$ip/")" 'page by writer'
    expect 'the file of the init container' "$(curl --silent --max-time 5 "http://$ip/init")" 'made by init'
    within 5 "init's log" log_has init 'init is done'
    within 5 "writer's log" log_has writer 'page is written'
    within 5 "nginx's log" log_has nginx 'GET / HTTP'
    expect "init's end" "$(field '.initContainerStatuses[0].state.terminated | "\(.reason) \(.exitCode)"')" 'Completed 0'
    # Three periods of the probes later nothing was restarted, and it still is ready.
    sleep 3
    check_sessions
    expect 'restarts' "$(field '[.initContainerStatuses[], .containerStatuses[]] | map(.restartCount) | add')" 0
    is_ready || fail "it is no longer ready"
}

# has_metric CONTAINER NAME: of the pod, above 0. A pod's own metrics have no container.
has_metric() {
    awk -v name="$2{" -v pod="pod=\"$pod\"" -v container="container=\"$1\"" '
        index($0, name) == 1 && index($0, pod) && index($0, container) { sub(/^.*} /, ""); if ($1 > 0) found = 1 }
        END { exit !found }' <<<"$metrics"
}

# busy CONTAINER: gives it something to do until it ends. Of one that sleeps the rate is 0 nanocores, and CRI counts whole
# seconds.
busy() {
    # shellcheck disable=SC2016
    local loop='while :; do i=0; while [ $i -lt 50000 ]; do i=$((i + 1)); done; sleep 0.1; done >/dev/null 2>&1 &'
    session exec spdy "$1" "output=1&error=1&command=sh&command=-c&command=$(jq -rn --arg loop "$loop" '$loop | @uri')"
}

# Whether each number that /stats/summary has of the pod is above 0.
summary_is_whole() {
    api stats/summary >"$with_scratch/summary" && jq -e --arg pod "$pod" '
        .pods[] | select(.podRef.name == $pod) | ([.containers[].name] | sort) == ["nginx", "writer"] and
        ([.cpu.usageCoreNanoSeconds, .cpu.usageNanoCores, .memory.workingSetBytes, .network.rxBytes, .network.txBytes,
          ."ephemeral-storage".usedBytes, (.containers[] | .cpu.usageCoreNanoSeconds, .cpu.usageNanoCores, .memory.workingSetBytes,
          .rootfs.usedBytes, .rootfs.inodesUsed)] | all(. > 0))' "$with_scratch/summary" >/dev/null
}

# Whether each of the metrics is above 0: cAdvisor knows no file systems of containerd's containers, and CRI's metrics of a pod
# as a whole are those of its network.
metrics_are_whole() {
    local container metric metrics of_container=(cpu_usage_seconds_total memory_working_set_bytes) containers=(nginx writer)
    if [[ $stats_from_cri == true ]]; then of_container+=(fs_usage_bytes); else containers+=(''); fi
    metrics=$(api metrics/cadvisor) || return 1
    printf '%s\n' "$metrics" >"$with_scratch/metrics"
    for container in "${containers[@]}"; do
        for metric in "${of_container[@]}"; do
            has_metric "$container" "container_$metric" || return 1
        done
    done
    for metric in receive transmit; do
        has_metric '' container_network_${metric}_bytes_total || has_metric POD container_network_${metric}_bytes_total || return 1
    done
}

check_stats() {
    busy nginx
    busy writer
    # Rates need two looks, ten seconds apart.
    within 40 'numbers in /stats/summary' summary_is_whole
    within 40 'numbers in /metrics/cadvisor' metrics_are_whole
    say "$target: PodAndContainerStatsFromCRI=$stats_from_cri: $(jq -c --arg pod "$pod" '.pods[] | select(.podRef.name == $pod) |
        {cpu: .cpu.usageNanoCores, memory: .memory.workingSetBytes, rx: .network.rxBytes, tx: .network.txBytes,
         storage: ."ephemeral-storage".usedBytes, containers: [.containers[] | {(.name): [.cpu.usageNanoCores, .memory.workingSetBytes,
         .rootfs.usedBytes]}] | add}' "$with_scratch/summary")"
}

# ---- sessions through kubelet -------------------------------------------------------------------------------------------

# session VERB PROTOCOL CONTAINER QUERY [OPTION...]: streamer at kubelet's /exec or /attach. kubelet passes SPDY and WebSocket's
# v4 through to the runtime's server, and translates v5 to SPDY.
session() {
    local verb=$1 protocol=$2 container=$3 query=$4
    shift 4
    timeout 20 "$BIN/streamer" "$verb" -protocol "$protocol" "$@" \
        "https://127.0.0.1:$port/$verb/default/$pod/$container?$query"
}

# check_exec PROTOCOL
check_exec() {
    local said status=0
    said=$(session exec "$1" writer 'output=1&error=1&command=sh&command=-c&command=echo%20out%3Becho%20err%20%3E%262%3Bexit%209' 2>"$with_scratch/err") ||
        status=$?
    expect "exec by $1" "$status $said $(<"$with_scratch/err")" '9 out err'
    # v4 cannot half-close stdin.
    if [[ $1 != v4 ]]; then
        said=$(seq 1000 | session exec "$1" writer 'input=1&output=1&error=1&command=wc&command=-l' -stdin)
        expect "stdin by $1" "$said" 1000
    fi
    said=$(session exec "$1" writer 'input=1&output=1&tty=1&command=sh&command=-c&command=until%20stty%20size%202%3E%261%7Cgrep%20-x%20%2250%20133%22%3Bdo%20sleep%200.1%3Bdone' \
        -stdin -tty -size 133x50 <>"$with_scratch/open")
    expect "a terminal by $1" "$said" $'50 133\r'
}

# check_attach PROTOCOL: nginx writes a line to its stdout for each request; the session is cut off after it.
check_attach() {
    local ip=$2 page=/attached-by-$1 reader
    session attach "$1" nginx 'output=1&error=1' >"$with_scratch/attached" 2>&1 &
    reader=$!
    within 10 "attach by $1" asked_and_seen "http://$ip$page" "GET $page HTTP"
    kill $reader
    wait $reader || true
}

asked_and_seen() {
    curl --silent --max-time 5 --output /dev/null "$1"
    grep -qF "$2" "$with_scratch/attached"
}

# check_forward PROTOCOL
check_forward() {
    local forwarder local_port
    "$BIN/streamer" forward -protocol "$1" "https://127.0.0.1:$port/portForward/default/$pod" 80 \
        <>"$with_scratch/open" >"$with_scratch/forwarded" 2>&1 &
    forwarder=$!
    within 10 "port-forward by $1" grep -q '^Forwarding' "$with_scratch/forwarded"
    local_port=$(sed -nE 's/^Forwarding from 127.0.0.1:([0-9]+) .*/\1/p;T;q' "$with_scratch/forwarded")
    expect "the page through a port-forward by $1" "$(curl --silent --max-time 5 "http://127.0.0.1:$local_port/")" 'page by writer'
    kill $forwarder
    wait $forwarder || true
}

# Once for each target.
check_sessions() {
    local ip protocol
    [[ -z ${sessions_checked[$target]:-} ]] || return 0
    sessions_checked[$target]=yes
    # A pipe that is never at its end, as stdin.
    [[ -p $with_scratch/open ]] || mkfifo "$with_scratch/open"
    ip=$(field .podIP)
    for protocol in spdy v4 v5; do
        check_exec $protocol
        check_attach $protocol "$ip"
    done
    for protocol in spdy tunnel; do
        check_forward $protocol
    done
    say "$target: exec and attach by SPDY and WebSocket's v4 and v5, port-forward by SPDY and in a WebSocket"
}

# start_pod NUMBER: sets ready_ms. Another name each time: kubelet would clean up after an earlier one of the same name first.
start_pod() {
    local start
    pod=web$1-$node
    write_manifest "$BED/kubelet/web.yaml" "web$1"
    start=$(now_ms)
    mv "$BED/kubelet/web.yaml" "$BED/kubelet/manifests/web.yaml"
    within 60 'Ready' is_ready
    ready_ms=$(($(now_ms) - start))
    say "$target: time to Ready $ready_ms ms"
}

end_pod() {
    local start
    start=$(now_ms)
    rm "$BED/kubelet/manifests/web.yaml"
    within "$grace" 'the end' is_gone
    say "$target: ended in $(($(now_ms) - start)) ms"
}

# run TARGET PODS: one after the other, on one kubelet; the first one is looked at. Adds to ready_times. kubelet looks at
# the runtime once a second, so where in that second a pod comes moves its time by as much: the next one comes a random
# while later.
run() {
    local target=$1 image number
    bed_with_images "$bed" "$target" 9>&-
    for image in busybox:1.29-2 nginx:1.14-2; do
        "$BIN/crictl" --config "$BED/crictl.yaml" pull "registry.k8s.io/e2e-test-images/$image" >/dev/null
    done
    start_kubelet
    for ((number = 1; number <= $2; number++)); do
        start_pod "$number"
        ready_times+="$ready_ms"$'\n'
        ((number > 1)) || check_running_pod
        [[ -z $check_stats ]] || check_stats
        end_pod
        sleep "0.$((RANDOM % 1000))"
    done
    stop_kubelet
    save_logs "$target"
    bed_without "$bed"
}

# ---- evented PLEG -------------------------------------------------------------------------------------------------------

# write_ending_manifest FILE NAME: a pod whose one container ends with 3 on SIGTERM, once.
write_ending_manifest() {
    cat >"$1" <<END
apiVersion: v1
kind: Pod
metadata: {name: $2, namespace: default}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: registry.k8s.io/e2e-test-images/busybox:1.29-2
    command: [sh, -c, 'trap "exit 3" TERM; sleep 3600 & wait']
END
}

is_running() { [[ $(field '.containerStatuses[0].state | keys[0]') == running ]]; }
has_ended() { [[ $(field '.containerStatuses[0].state.terminated.exitCode') == 3 ]]; }

# metric NAME: of kubelet's own; 0 when nothing was counted yet.
metric() { api metrics | awk -v name="$1" '$1 == name { value = $2 } END { print value + 0 }'; }

# asked_by_event ID: whether the event of that container's end had kubelet look at its pod. kubelet 1.37 lists once a second
# beside the events, so that what it knows, and when, does not tell how it knows it.
asked_by_event() { grep -q "requested pod relist after container termination.* containerID=\"$1\"" "$BED/logs/kubelet.log"; }

events() {
    local target=$1 number id pid start errors
    gates='{EventedPLEG: true}'
    more_options=(--v=4)
    bed_with_images "$bed" "$target" 9>&-
    "$BIN/crictl" --config "$BED/crictl.yaml" pull registry.k8s.io/e2e-test-images/busybox:1.29-2 >/dev/null
    start_kubelet
    for number in 1 2 3 4 5; do
        pod=web$number-$node
        write_ending_manifest "$BED/kubelet/web.yaml" "web$number"
        mv "$BED/kubelet/web.yaml" "$BED/kubelet/manifests/web.yaml"
        within 60 'Running' is_running
        id=$("$BIN/crictl" --config "$BED/crictl.yaml" ps --quiet --name main)
        pid=$("$BIN/crictl" --config "$BED/crictl.yaml" inspect --output json "$id" | jq .info.pid)
        start=$(now_ms)
        kill -TERM "$pid"
        within 20 'the exit in the status of the pod' has_ended
        ended_ms=$(($(now_ms) - start))
        say "$target: an exit is in the status of the pod after $ended_ms ms"
        ((ended_ms <= 500)) || fail "an exit took $ended_ms ms to be known, which is more than 500"
        within 1 'a look at the pod by the event' asked_by_event "$id"
        rm "$BED/kubelet/manifests/web.yaml"
        within 30 'the end' is_gone
    done
    errors=$(metric kubelet_evented_pleg_connection_error_count)
    expect 'connections for events' "$(metric kubelet_evented_pleg_connection_success_count)" 1
    expect 'failed connections for events' "$errors" 0
    stop_kubelet
    save_logs "$target"
    bed_without "$bed"
}

save_logs() {
    local to=${OUT:-$repo/target/kubelet/$1}
    [[ ! -d ${BED:-/none}/logs ]] || { mkdir -p "$to" && cp -r "$BED/logs/." "$to"; }
    [[ ! -e $with_scratch/summary ]] || cp "$with_scratch"/{summary,metrics} "$to" 2>/dev/null || true
}

# After a failure the logs are what one wants.
leave() {
    stop_kubelet
    save_logs "${TARGET:-failed}"
}

median() { sort -n | awk '{ value[NR] = $1 } END { print value[int((NR + 1) / 2)] }'; }

compare() {
    local a=${A:-pontoon} b=${B:-builtin} side
    local -A times=()
    for side in a b b a a b; do
        ready_times=
        run "${!side}" 5
        times[$side]+=$ready_times
    done
    local median_a median_b limit
    median_a=$(median < <(printf '%s' "${times[a]}")) median_b=$(median < <(printf '%s' "${times[b]}"))
    limit=$((median_b * 125 / 100 + 1000))
    printf 'time to Ready, median of 15: %s %s ms, %s %s ms, at most %s ms\n' "$a" "$median_a" "$b" "$median_b" "$limit"
    ((median_a <= limit)) || fail "$a takes more than 1.25 times the time of $b + 1 s"
}

BIN=${BIN:-$("$repo/tests/tools/build.sh" core kubelet streaming)}
export BIN
kubelet_program=${KUBELET:-$BIN/kubelet}
say "$("$kubelet_program" --version)"
# One kubelet at a time: what it does to the node is noted before and restored after.
exec 9<"$BIN/kubelet"
flock --nonblock 9 || { say "another one is running on this machine, waiting"; flock 9; }
note_node
at_exit leave
case ${1:-} in
'')
    check_stats=yes
    run "${TARGET:-pontoon}" 1
    stats_from_cri=true
    gates='{PodAndContainerStatsFromCRI: true}'
    run "${TARGET:-pontoon}" 1
    printf 'time to Ready: %s ms\n' "$ready_ms"
    ;;
--compare) compare ;;
--events) events "${TARGET:-pontoon}" ;;
*) say "unknown option '$1'"; exit 2 ;;
esac
