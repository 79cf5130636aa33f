#!/usr/bin/env bash
# Runs a static pod with kubelet, without a cluster, on Pontoon or on containerd's built-in CRI: an init container, nginx with
# an HTTP readiness probe and an exec liveness probe, and a second container that writes nginx's page to a shared emptyDir.
# The pod must become Ready, serve the page, show its logs through kubelet's API, and end within its grace period after its
# manifest is removed. exec, attach and port-forward through kubelet's API must work by SPDY and by WebSocket. kubelet's
# /stats/summary and /metrics/cadvisor must have the pod's usage, from cAdvisor and, with the feature gate
# PodAndContainerStatsFromCRI, from CRI only.
#
#   kubelet.sh                 one run without and one with that gate; prints the time from manifest to Ready
#   kubelet.sh --compare       three runs of five pods on each target, in turns; fails if Pontoon's median is above 1.25
#                              times the built-in CRI's + 1 s
#   kubelet.sh --events        with the feature gate EventedPLEG: five containers end. Each time, the CRI event must make
#                              kubelet inspect the pod, and its status of the pod must show the exit within 500 ms
#                              (kubelet 1.37 or newer)
#   TARGET=pontoon|builtin     the CRI server, except with --compare (pontoon)
#   A=, B=                     the two that --compare compares (pontoon, builtin)
#   GRACE=seconds              the pod's grace period, within which it must end (10)
#   OUT=directory              for kubelet.log and the daemons' logs (target/kubelet/TARGET)
#   KUBELET=file               a kubelet other than the pinned one, such as an older one
#
# kubelet's cAdvisor connects to containerd at /run/containerd/containerd.sock, but a bed's containerd is elsewhere. As
# README says, kubelet gets a link there. It is in a separate mount namespace: beds do not affect each other, a containerd of
# the machine is hidden but not replaced, and no file stays. kubelet before 1.37 has the flag --containerd instead. With stats
# from CRI there is no link and no flag.
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

# ---- changes that kubelet makes to a node and that no option prevents ---------------------------------------------------

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

# Removes only the files that kubelet is known to create there.
remove_fixed() {
    rm -f "$1/kubelet.sock" "$1/DEPRECATION"
    find "$1" -maxdepth 1 -type l -name "web*-${node}_*" -delete
    rmdir "$1" || say "$1 is not empty: $(ls "$1")"
}

# ---- kubelet ------------------------------------------------------------------------------------------------------------

free_port() {
    local port
    # Not the ports of tests/images/registry.sh, which may be about to start one.
    while port=$((RANDOM % 2000 + 30000)); (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
    printf '%s\n' "$port"
}

# kubelet's cgroup root must exist, with cgroup v1 in each hierarchy. A new cpuset has no CPUs until they are set.
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
# Without it kubelet 1.36 has no file system in /stats/summary, and therefore no summary at all.
localStorageCapacityIsolation: $([[ -n $check_stats ]] && echo true || echo false)
evictionHard: {memory.available: 10Mi}
# A full disk of the machine must not start the garbage collection of images.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
makeIPTablesUtilChains: false
oomScoreAdj: $(</proc/self/oom_score_adj)
featureGates: $gates
END
}

# kubelet 1.37 does not start with the flag.
has_containerd_flag() { ((kubelet_minor < 37)); }

# with_run_containerd DIRECTORY COMMAND...: runs it in a mount namespace where that directory is /run/containerd. Only its
# mounts below $BED/kubelet propagate to the containers.
with_run_containerd() {
    mkdir -p /run/containerd
    # shellcheck disable=SC2016  # the inner shell expands it
    exec unshare --mount --propagation unchanged bash -euc '
        mount --make-private "$(findmnt --noheadings --output TARGET --target /run/containerd)"
        mount --bind "$1" /run/containerd
        exec "${@:2}"' - "$@"
}

# All of kubelet's files are in $BED: its root, certificates and the pods' logs.
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
        if has_containerd_flag; then
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

# Ends kubelet and unmounts its mounts; pods that still run end with the bed.
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

# write_manifest FILE NAME. The writer's sleep is in the background, so that its shell runs the trap at once.
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

# field JQ: prints a part of the pod's status.
field() { api pods | jq -r ".items[]? | select(.metadata.name == \"$pod\") | .status | $1"; }

now_ms() { date +%s%3N; }

# within SECONDS WHAT COMMAND...: repeats the command until it succeeds; fails after SECONDS.
within() {
    local deadline=$(($(now_ms) + $1 * 1000)) what=$2
    shift 2
    until "$@"; do
        (($(now_ms) < deadline)) || fail "$what: not within the time; the pod: $(field '[.phase, .conditions, .containerStatuses]' 2>/dev/null | jq -c .)"
        sleep 0.05
    done
}

is_ready() { [[ $(field '[.phase, (.conditions[]? | select(.type == "Ready").status)] | join(" ")') == 'Running True' ]]; }
# Checks the runtime's containers too, not only kubelet's status.
is_gone() {
    local phase containers
    phase=$(field .phase) && containers=$("$BIN/crictl" --config "$BED/crictl.yaml" ps --quiet) && [[ -z $phase$containers ]]
}

# log_has CONTAINER TEXT: whether the text is in the container's log, read through kubelet's API.
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
    # After three periods of the probes, no container was restarted and the pod is still ready.
    sleep 3
    check_sessions
    expect 'restarts' "$(field '[.initContainerStatuses[], .containerStatuses[]] | map(.restartCount) | add')" 0
    is_ready || fail "it is no longer ready"
}

# has_metric CONTAINER NAME: whether that metric of the pod is above 0. Metrics of the whole pod have no container.
has_metric() {
    awk -v name="$2{" -v pod="pod=\"$pod\"" -v container="container=\"$1\"" '
        index($0, name) == 1 && index($0, pod) && index($0, container) { sub(/^.*} /, ""); if ($1 > 0) found = 1 }
        END { exit !found }' <<<"$metrics"
}

# busy CONTAINER: starts a loop in the container that runs until its end. A container that only sleeps uses 0 nanocores, and
# CRI counts whole seconds.
busy() {
    # shellcheck disable=SC2016
    local loop='while :; do i=0; while [ $i -lt 50000 ]; do i=$((i + 1)); done; sleep 0.1; done >/dev/null 2>&1 &'
    session exec spdy "$1" "output=1&error=1&command=sh&command=-c&command=$(jq -rn --arg loop "$loop" '$loop | @uri')"
}

# Whether each of the pod's numbers in /stats/summary is above 0.
summary_is_whole() {
    api stats/summary >"$with_scratch/summary" && jq -e --arg pod "$pod" '
        .pods[] | select(.podRef.name == $pod) | ([.containers[].name] | sort) == ["nginx", "writer"] and
        ([.cpu.usageCoreNanoSeconds, .cpu.usageNanoCores, .memory.workingSetBytes, .network.rxBytes, .network.txBytes,
          ."ephemeral-storage".usedBytes, (.containers[] | .cpu.usageCoreNanoSeconds, .cpu.usageNanoCores, .memory.workingSetBytes,
          .rootfs.usedBytes, .rootfs.inodesUsed)] | all(. > 0))' "$with_scratch/summary" >/dev/null
}

# Whether each of the metrics is above 0. cAdvisor has no file system metrics for containers of containerd; CRI has only
# network metrics for the whole pod.
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
    # Rates need two samples, ten seconds apart.
    within 40 'numbers in /stats/summary' summary_is_whole
    within 40 'numbers in /metrics/cadvisor' metrics_are_whole
    say "$target: PodAndContainerStatsFromCRI=$stats_from_cri: $(jq -c --arg pod "$pod" '.pods[] | select(.podRef.name == $pod) |
        {cpu: .cpu.usageNanoCores, memory: .memory.workingSetBytes, rx: .network.rxBytes, tx: .network.txBytes,
         storage: ."ephemeral-storage".usedBytes, containers: [.containers[] | {(.name): [.cpu.usageNanoCores, .memory.workingSetBytes,
         .rootfs.usedBytes]}] | add}' "$with_scratch/summary")"
}

# ---- sessions through kubelet -------------------------------------------------------------------------------------------

# session VERB PROTOCOL CONTAINER QUERY [OPTION...]: runs streamer with kubelet's /exec or /attach. kubelet proxies SPDY and
# WebSocket's v4 to the runtime's streaming server, and translates v5 to SPDY.
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

# check_attach PROTOCOL: nginx writes a line to its stdout for each request; the session is killed after that line.
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

# Runs once for each target.
check_sessions() {
    local ip protocol
    [[ -z ${sessions_checked[$target]:-} ]] || return 0
    sessions_checked[$target]=yes
    # A FIFO opened for reading and writing, so that stdin never reaches its end.
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

# start_pod NUMBER: sets ready_ms. Each pod has another name: kubelet would first clean up an earlier pod of the same name.
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

# run TARGET PODS: runs the pods one after the other with one kubelet, checks the first one and appends to ready_times.
# kubelet polls the runtime once a second, so a pod's time depends on when in that second it is created: a random pause
# precedes the next one.
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

# write_ending_manifest FILE NAME: a pod whose only container exits with 3 on SIGTERM and is not restarted.
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

# metric NAME: prints a metric of kubelet itself; 0 if kubelet does not have it yet.
metric() { api metrics | awk -v name="$1" '$1 == name { value = $2 } END { print value + 0 }'; }

# asked_by_event ID: whether the event of that container's exit made kubelet inspect its pod. The pod's status does not show
# that, because kubelet 1.37 also lists the pods once a second.
asked_by_event() {
    local line="requested pod relist after container termination.* containerID=\"$1\""
    # kubelet 1.36 does not say for which container it was.
    ! has_containerd_flag || line='Evented PLEG: Generated pod status from the received event'
    grep -q "$line" "$BED/logs/kubelet.log"
}

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

# Saves the logs also after a failure.
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
version=$("$kubelet_program" --version)
say "$version"
[[ $version =~ ^Kubernetes\ v1\.([0-9]+)\. ]] || fail "its version is no 'Kubernetes v1.N.N'"
kubelet_minor=${BASH_REMATCH[1]}
# One kubelet at a time: the node's state is saved before it starts and restored after its end.
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
