#!/usr/bin/env bash
# A bed is a test environment: a private containerd, and on it either Pontoon or containerd's built-in CRI. All their
# files are in one directory, so that a test starts on a clean node and leaves it clean.
#
#   bed.sh up NAME [--builtin|--containerd]  creates and starts a bed; the last line on stdout is its directory.
#                                 --containerd: writes Pontoon's configuration, but leaves it to `daemon NAME start`
#   bed.sh down NAME              removes a bed and all its changes to the node, also after an `up` that failed
#   bed.sh daemon NAME start|stop|kill|abort      Pontoon only; kill sends SIGKILL, abort SIGABRT
#   bed.sh containerd NAME start|stop|kill|abort  containerd only
#   bed.sh registry NAME start|stop  the bed's own docker-registry, on REGISTRY_PORT
#   bed.sh env NAME               prints the path of the file with the bed's variables:  . "$(bed.sh env NAME)"
#   bed.sh list                   prints slot, name and directory of each bed
#
# Can also be sourced, for bed_up, bed_down and the other functions. Environment variables, with their defaults:
#   PONTOON_BIN        the daemon (target/release/pontoon)
#   PONTOON_AS         the daemon's limit of address space in bytes, also after a restart (unlimited)
#   BIN                the directory of the tools (tests/tools/build.sh core)
#   REGISTRY_PORT      port of the local registry, to which the names of all registries lead (5000)
#   PAUSE_IMAGE        the built-in CRI's sandbox image (registry.k8s.io/pause:3.9)
#
# Several beds can exist at once: each has a slot, which determines its bridge, subnets, CNI network name and cgroup
# parent. The first bed saves the state that beds share (sysctls, top-level iptables chains, /var/lib/cni), and the last
# one restores it.
# shellcheck disable=SC2030,SC2031  # bed_down is a subshell on purpose, so that its variables stay local
set -euo pipefail

bed_here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
bed_repo=$(cd "$bed_here/../.." && pwd)
beds=/run/pontoon-beds

bed_say() { printf 'bed: %s\n' "$*" >&2; }
bed_die() { bed_say "$*"; exit 1; }

# ---- slots: a directory in $beds for each bed --------------------------------------------------------------------------

# bed_locked COMMAND...: runs it under the lock of all beds of this machine. The lock is on the directory /run/lock, so
# that no lock file stays behind.
bed_locked() {
    (
        flock 8
        "$@" 8>&-
    ) 8</run/lock
}

# bed_slot NAME: prints its slot; fails if there is no such bed.
bed_slot() {
    local slot
    for slot in "$beds"/[0-9]*; do
        if [[ -e $slot/name && $(<"$slot/name") == "$1" ]]; then
            basename "$slot"
            return 0
        fi
    done
    return 1
}

bed_dir_of() {
    local slot
    slot=$(bed_slot "$1") || bed_die "there is no bed '$1'"
    cat "$beds/$slot/dir"
}

# bed_reserve NAME DIR: takes the lowest free slot and prints it. The first bed also saves the state that beds share. Both
# are created by a rename, so that an interruption leaves nothing incomplete.
bed_reserve() {
    local slot=0
    rm -rf "$beds.new" "$beds/new"
    if [[ ! -d $beds ]]; then
        mkdir -p "$beds.new/before"
        bed_note_shared "$beds.new/before"
        mv -T "$beds.new" "$beds"
    fi
    if bed_slot "$1" >/dev/null; then
        bed_die "bed '$1' is up already: bed.sh down $1"
    fi
    while [[ -e $beds/$slot ]]; do
        slot=$((slot + 1))
    done
    mkdir "$beds/new"
    printf '%s\n' "$1" >"$beds/new/name"
    printf '%s\n' "$2" >"$beds/new/dir"
    mv -T "$beds/new" "$beds/$slot"
    printf '%s\n' "$slot"
}

# ---- what beds share ----------------------------------------------------------------------------------------------------

bed_shared_sysctls=(net.ipv4.ip_forward net.ipv6.conf.all.forwarding)
bed_shared_dirs=(/var/lib/cni /var/run/netns /run/containerd /run/pontoon /var/lib/pontoon /opt/containerd)

bed_note_shared() {
    local to=$1 path
    sysctl --ignore "${bed_shared_sysctls[@]}" >"$to/sysctls"
    iptables-save >"$to/iptables"
    ip6tables-save >"$to/ip6tables"
    ip -o link | awk -F': ' '{ sub("@.*", "", $2); print $2 }' >"$to/links"
    for path in "${bed_shared_dirs[@]}" /sys/fs/cgroup/*/k8s.io /sys/fs/cgroup/k8s.io; do
        if [[ -e $path ]]; then printf '%s\n' "$path"; fi
    done >"$to/paths"
}

# bed_restore_shared: called by the last bed, after all processes of all beds have ended.
bed_restore_shared() {
    local before=$beds/before path link
    sysctl -q -p "$before/sysctls" >/dev/null || bed_say "could not restore the sysctls in $before/sysctls"
    bed_restore_chains iptables "$before/iptables"
    bed_restore_chains ip6tables "$before/ip6tables"
    # The bandwidth plugin's interfaces: their names do not identify the pod. Nothing else is removed by a pattern, because
    # it could belong to another program, and because that would hide a leak.
    while read -r link; do
        grep -qxF "$link" "$before/links" || ip link delete "$link" 2>/dev/null || true
    done < <(ip -o link | awk -F': ' '{ sub("@.*", "", $2); print $2 }' | grep '^bwp')
    for path in /sys/fs/cgroup/*/k8s.io /sys/fs/cgroup/k8s.io; do
        [[ -d $path ]] && ! grep -qxF "$path" "$before/paths" && bed_remove_cgroup "$path"
    done
    # Shared directories are removed only if they are empty. If ip-netns created /var/run/netns, it is a mount on itself.
    grep -qxF /var/run/netns "$before/paths" || umount /var/run/netns 2>/dev/null || true
    for path in "${bed_shared_dirs[@]}"; do
        [[ -d $path ]] && ! grep -qxF "$path" "$before/paths" && find "$path" -xdev -depth -type d -empty -delete
    done
    rm -rf "$beds"
}

# bed_restore_chains COMMAND BEFORE: deletes the top-level chains of the CNI plugins that are not in the file BEFORE, and
# the jumps to them.
bed_restore_chains() {
    local command=$1 before=$2 table
    for table in filter nat mangle; do
        # shellcheck disable=SC2046  # a list of chains
        bed_delete_chains "$command" $table $("$command-save" -t $table 2>/dev/null | sed -n 's/^:\(CNI-[^ ]*\) .*/\1/p' |
            while read -r chain; do grep -q "^:$chain " "$before" || printf '%s\n' "$chain"; done)
    done
}

# bed_delete_chains COMMAND TABLE [CHAIN...]: deletes the chains and the rules that jump to them, in one transaction.
# iptables-restore parses the quotes that iptables-save prints; a shell command would have to parse them itself.
bed_delete_chains() {
    local command=$1 table=$2
    shift 2
    (($# > 0)) || return 0
    {
        printf '*%s\n' "$table"
        "$command-save" -t "$table" | grep -E -- "^-A .* -j ($(IFS='|'; printf '%s' "$*"))( |\$)" | sed 's/^-A/-D/'
        printf -- '-F %s\n' "$@"
        printf -- '-X %s\n' "$@"
        printf 'COMMIT\n'
    } | "$command-restore" --wait 5 --noflush || bed_say "$command: could not delete $*"
}

# ---- configuration ------------------------------------------------------------------------------------------------------

# Succeeds if pods can have IPv6 on this machine: addresses, and a nat table for ipMasq.
bed_has_ipv6() {
    [[ -d /proc/sys/net/ipv6 && $(</proc/sys/net/ipv6/conf/all/disable_ipv6) == 0 ]] &&
        ip6tables -w 5 -t nat -S >/dev/null 2>&1
}

bed_write_cni() {
    local ranges='[{"subnet": "10.213.'$SLOT'.0/24"}]' routes='{"dst": "0.0.0.0/0"}'
    if bed_has_ipv6; then
        ranges+=', [{"subnet": "fd00:70:6f:'$SLOT'::/64"}]'
        routes+=', {"dst": "::/0"}'
    fi
    mkdir -p "$BED/cni/net.d" "$BED/cni/cache" "$BED/cni/ipam"
    cat >"$BED/cni/net.d/10-bed.conflist" <<EOF
{
  "cniVersion": "1.0.0",
  "name": "$BRIDGE",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "$BRIDGE",
      "isGateway": true,
      "ipMasq": true,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "dataDir": "$BED/cni/ipam",
        "ranges": [$ranges],
        "routes": [$routes]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}},
    {"type": "bandwidth", "capabilities": {"bandwidth": true}}
  ]
}
EOF
    # For the runtime handler `aside`.
    mkdir -p "$BED/cni/aside.d"
    cat >"$BED/cni/aside.d/10-aside.conflist" <<EOF
{
  "cniVersion": "1.0.0",
  "name": "$BRIDGE-aside",
  "plugins": [
    {
      "type": "ptp",
      "ipam": {"type": "host-local", "dataDir": "$BED/cni/ipam", "ranges": [[{"subnet": "10.214.$SLOT.0/24"}]]}
    }
  ]
}
EOF
}

# The base OCI spec of the runtime handler `aside`.
bed_write_base_spec() {
    "$BIN/ctr" oci spec | jq '.process.rlimits = [{type: "RLIMIT_NOFILE", soft: 777, hard: 777}]' >"$BED/aside.json"
}

# bed_aside TABLE KEY: prints a second runtime handler, also with runc, that sets all options of a handler. The keys are
# the same in the configurations of both servers, except for the TABLE and the KEY of the type.
bed_aside() {
    cat <<EOF

[$1.aside]
$2 = "io.containerd.runc.v2"
base_runtime_spec = "$BED/aside.json"
cni_conf_dir = "$BED/cni/aside.d"
cni_max_conf_num = 1
privileged_without_host_devices = true
pod_annotations = ["pod.bed.example/*"]
container_annotations = ["container.bed.example/*"]

[$1.aside.options]
BinaryName = "$BIN/runc"
Root = "$BED/runc"
SystemdCgroup = false
EOF
}

# The names of all registries lead to the local registry: images keep their real names, and nothing leaves the machine.
bed_write_certs() {
    local host
    for host in registry.k8s.io gcr.io k8s.gcr.io public.ecr.aws docker.io quay.io "127.0.0.1:$REGISTRY_PORT"; do
        mkdir -p "$BED/certs.d/$host"
        cat >"$BED/certs.d/$host/hosts.toml" <<EOF
server = "http://127.0.0.1:$REGISTRY_PORT"

[host."http://127.0.0.1:$REGISTRY_PORT"]
capabilities = ["pull", "resolve"]
EOF
    done
}

# The configuration that containerd has with and without its CRI: all its paths are in the bed. socket_dir must have less
# than 43 bytes.
bed_write_containerd_common() {
    cat <<EOF
version = 4
root = "$BED/containerd/root"
state = "$BED/containerd/state"
temp = "$BED/tmp"
imports = []
$1

[plugins."io.containerd.server.v1.grpc"]
address = "$CONTAINERD_ADDRESS"

[plugins."io.containerd.server.v1.ttrpc"]
address = "$CONTAINERD_ADDRESS.ttrpc"

[plugins."io.containerd.shim.v1.manager"]
socket_dir = "$BED/s"

[plugins."io.containerd.internal.v1.opt"]
path = "$BED/containerd/opt"

[plugins."io.containerd.image-verifier.v1.bindir"]
bin_dir = "$BED/containerd/verifiers"

[plugins."io.containerd.nri.v1.nri"]
disable = true

EOF
}

bed_write_containerd() {
    bed_write_containerd_common 'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"]' \
        >"$BED/containerd.toml"
}

bed_write_containerd_builtin() {
    {
        bed_write_containerd_common 'disabled_plugins = []'
        # restrict_oom_score_adj: without it, every sandbox fails if CAP_SYS_RESOURCE is missing.
        # Network namespaces are in the bed, not in /var/run/netns, to distinguish those of two beds with the built-in CRI.
        cat <<EOF
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"

[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "$PAUSE_IMAGE"

[plugins."io.containerd.cri.v1.images".registry]
config_path = "$BED/certs.d"

[plugins."io.containerd.cri.v1.runtime"]
enable_selinux = $([[ -e /sys/fs/selinux/enforce ]] && echo true || echo false)
restrict_oom_score_adj = true
device_ownership_from_security_context = true
cdi_spec_dirs = ["$BED/cdi-etc", "$BED/cdi-run"]
netns_mounts_under_state_dir = true

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "$BIN/runc"
Root = "$BED/runc"
SystemdCgroup = false

[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["$BIN/cni"]
conf_dir = "$BED/cni/net.d"
EOF
        bed_aside 'plugins."io.containerd.cri.v1.runtime".containerd.runtimes' runtime_type
    } >"$BED/containerd.toml"
}

bed_write_pontoon() {
    {
        cat <<EOF
socket = "$BED/pontoon.sock"
root = "$BED/root"
state = "$BED/run"
netns_dir = "$BED/netns"
device_ownership_from_security_context = true
# Tests write profiles into their pods' directories, critest writes them into TMPDIR.
seccomp_profile_roots = ["$BED/pods", "$BED/tmp"]

[log]
level = "info"
format = "text"

[containerd]
address = "$CONTAINERD_ADDRESS"
namespace = "k8s.io"

[cni]
conf_dir = "$BED/cni/net.d"
bin_dirs = ["$BIN/cni"]
cache_dir = "$BED/cni/cache"

[images]
registry_config_path = "$BED/certs.d"
snapshotter = "overlayfs"

[cdi]
spec_dirs = ["$BED/cdi-etc", "$BED/cdi-run"]

[runtimes.runc]
type = "io.containerd.runc.v2"

[runtimes.runc.options]
BinaryName = "$BIN/runc"
Root = "$BED/runc"
SystemdCgroup = false
EOF
        bed_aside runtimes type
    } >"$BED/pontoon.toml"
}

bed_write_env() {
    local variable
    for variable in BED NAME SLOT TARGET BIN PONTOON_BIN PONTOON_AS BRIDGE CGROUP_PARENT CONTAINERD_ADDRESS CRI_SOCKET REGISTRY_PORT; do
        printf 'export %s=%q\n' "$variable" "${!variable}"
    done >"$BED/env"
    cat >>"$BED/env" <<EOF
export CONTAINER_RUNTIME_ENDPOINT=unix://$CRI_SOCKET
export IMAGE_SERVICE_ENDPOINT=unix://$CRI_SOCKET
export CONTAINERD_NAMESPACE=k8s.io
export CRI_CONFIG_FILE=$BED/crictl.yaml
export PATH=$BIN:\$PATH
EOF
    # The bed's own file, so that crictl does not read the machine's /etc/crictl.yaml.
    printf 'runtime-endpoint: unix://%s\nimage-endpoint: unix://%s\ntimeout: 60\n' "$CRI_SOCKET" "$CRI_SOCKET" >"$BED/crictl.yaml"
}

# ---- the two daemons ----------------------------------------------------------------------------------------------------

# bed_spawn NAME COMMAND...: starts it in its own session, so that a Ctrl-C on the test's terminal does not reach it (the
# bed stops its daemons itself, in order). Its pid is in NAME.pid, its output in logs/NAME.log.
bed_spawn() {
    local name=$1
    shift
    # shellcheck disable=SC2016  # the inner shell expands them
    PATH=$BIN:$PATH setsid --fork bash -c 'echo $$ >"$1"; shift; exec "$@"' - "$BED/$name.pid" "$@" \
        >>"$BED/logs/$name.log" 2>&1 </dev/null
}

bed_alive() {
    [[ -s $BED/$1.pid ]] && bed_is_ours "$(<"$BED/$1.pid")"
}

# bed_wait_ready NAME COMMAND...: waits until COMMAND succeeds; fails at once if the process of NAME has ended.
bed_wait_ready() {
    local name=$1 deadline=$((SECONDS + 30))
    shift
    until "$@" >/dev/null 2>&1; do
        # Checked twice, because a process in the middle of its exec has no arguments.
        if ((SECONDS > deadline)) || { [[ -s $BED/$name.pid ]] && ! bed_alive "$name" && sleep 0.2 && ! bed_alive "$name"; }; then
            bed_say "$name does not answer; the end of its log:"
            tail -n 40 "$BED/logs/$name.log" >&2 || true
            return 1
        fi
        sleep 0.05
    done
}

# bed_end NAME SIGNAL: sends the signal and waits until the process has ended; sends SIGKILL after 20 s.
bed_end() {
    local name=$1 signal=$2 pid turns=0
    [[ -s $BED/$name.pid ]] || return 0
    pid=$(<"$BED/$name.pid")
    ! bed_is_ours "$pid" || kill "-$signal" "$pid" 2>/dev/null || true
    while bed_is_ours "$pid"; do
        turns=$((turns + 1))
        if ((turns == 400)); then
            bed_say "$name (pid $pid) did not end in 20 s: SIGKILL"
            kill -KILL "$pid" 2>/dev/null || true
        fi
        sleep 0.05
    done
    rm -f "$BED/$name.pid"
}

# bed_is_ours PID: a pid file may be stale and its pid belong to another process; the bed's processes have its path among
# their arguments. A zombie has no arguments and does not count. kill -0 would succeed for it, and on the build machines
# init takes seconds to reap.
bed_is_ours() {
    local word
    [[ -r /proc/$1/cmdline ]] || return 1
    while read -r -d '' word; do
        [[ $word == *"$BED/"* ]] && return 0
    done 2>/dev/null <"/proc/$1/cmdline"
    return 1
}

bed_start_containerd() {
    bed_spawn containerd "$BIN/containerd" --config "$BED/containerd.toml"
    # `ctr version` succeeds once the API is served, that is, after all plugins are loaded.
    bed_wait_ready containerd "$BIN/ctr" --address "$CONTAINERD_ADDRESS" --connect-timeout 1s version
    if [[ $TARGET == builtin ]]; then
        bed_wait_ready containerd bed_cri_ready
    fi
}

# With the environment of the systemd unit, because the benchmarks are to measure that.
bed_start_pontoon() {
    local unit_environment
    mapfile -t unit_environment < <(sed -n 's/^Environment=//p' "$bed_repo/systemd/pontoon.service")
    bed_spawn pontoon env "${unit_environment[@]}" prlimit --as="$PONTOON_AS" "$PONTOON_BIN" serve --config "$BED/pontoon.toml"
    bed_wait_ready pontoon bed_cri_ready
}

# bed_start_registry: starts an empty registry on the port to which the names of all registries lead. `up` does not start
# one, because several beds may share the registry with the tests' images.
bed_start_registry() {
    cat >"$BED/registry.yml" <<EOF
version: 0.1
log:
  level: info
storage:
  filesystem:
    rootdirectory: $BED/registry
http:
  addr: 127.0.0.1:$REGISTRY_PORT
EOF
    bed_spawn registry docker-registry serve "$BED/registry.yml"
    bed_wait_ready registry bed_registry_ready
}

# Checks its log first: if the port was in use, another registry answers the request.
bed_registry_ready() {
    grep -q 'listening on' "$BED/logs/registry.log" && curl --silent --fail "http://127.0.0.1:$REGISTRY_PORT/v2/"
}

# Succeeds if RuntimeReady and NetworkReady are true; before that, the first pod of a test could fail.
bed_cri_ready() {
    local status
    status=$(bed_crictl --timeout 2s info --output json) &&
        [[ $(jq -r '[.status.conditions[] | select(.type == "RuntimeReady" or .type == "NetworkReady") | .status] | all' <<<"$status") == true ]]
}

bed_crictl() { "$BIN/crictl" --config "$BED/crictl.yaml" "$@"; }
bed_ctr() { "$BIN/ctr" --address "$CONTAINERD_ADDRESS" --connect-timeout 2s --namespace k8s.io "$@"; }

# ---- up -----------------------------------------------------------------------------------------------------------------

bed_up() {
    local with_daemon=yes
    NAME=$1 TARGET=pontoon
    [[ $NAME =~ ^[a-z0-9-]{1,12}$ ]] || bed_die "a bed's name is 1 to 12 of a-z 0-9 -, not '$NAME'"
    case ${2:-} in
    '') ;;
    --builtin) TARGET=builtin with_daemon= ;;
    --containerd) with_daemon= ;;
    *) bed_die "unknown option '$2'" ;;
    esac
    [[ $(id -u) == 0 ]] || bed_die "must be root"
    REGISTRY_PORT=${REGISTRY_PORT:-5000}
    PAUSE_IMAGE=${PAUSE_IMAGE:-registry.k8s.io/pause:3.9}
    PONTOON_BIN=${PONTOON_BIN:-$bed_repo/target/release/pontoon}
    PONTOON_AS=${PONTOON_AS:-unlimited}
    BIN=${BIN:-$("$bed_repo/tests/tools/build.sh" core)}
    [[ -z $with_daemon || -x $PONTOON_BIN ]] || bed_die "$PONTOON_BIN is not there: cargo build --release, or set PONTOON_BIN"

    # Short, because of containerd's socket_dir and the limit of 108 bytes for the path of a UNIX socket.
    BED=$(mktemp --dry-run "/var/tmp/pt-$NAME.XXXXXX")
    SLOT=$(bed_locked bed_reserve "$NAME" "$BED") || exit 1
    # Readable for all users: pods with other users or in user namespaces reach their volumes through it.
    mkdir -m 755 "$BED"
    mkdir -p "$BED"/{logs,pods,root,containerd/opt,containerd/verifiers}
    bed_mount_volatile
    BRIDGE=ptbed$SLOT
    # shellcheck disable=SC2034  # bed_write_env writes it to the environment file
    CGROUP_PARENT=/ptbed$SLOT
    CONTAINERD_ADDRESS=$BED/containerd.sock CRI_SOCKET=$BED/pontoon.sock
    [[ $TARGET == pontoon ]] || CRI_SOCKET=$CONTAINERD_ADDRESS

    bed_write_env
    bed_write_cni
    bed_write_base_spec
    bed_write_certs
    if [[ $TARGET == builtin ]]; then bed_write_containerd_builtin; else bed_write_containerd; bed_write_pontoon; fi
    if ! { bed_start_containerd && { [[ -z $with_daemon ]] || bed_start_pontoon; }; }; then
        bed_say "removing the bed; BED_KEEP=1 keeps it"
        [[ -n ${BED_KEEP:-} ]] || bed_down "$NAME"
        exit 1
    fi
    printf '%s\n' "$BED"
}

# The directories that are in /run and /tmp on a node are in memory here too. On a slow disk a shim's threads wait for each
# directory that an exec creates and removes; meanwhile Go starts more threads, up to 22 at a time, which never end.
bed_mount_volatile() {
    local directory
    for directory in run runc s tmp containerd/state; do
        mkdir -p "$BED/$directory"
        mount -t tmpfs -o nosuid,nodev,mode=755 pontoon-bed "$BED/$directory"
    done
}

# ---- down ---------------------------------------------------------------------------------------------------------------

# In a subshell without errexit: the other steps must clean up even if one fails, and processes, mounts and cgroups
# disappear while the functions look at them.
bed_down() (
    set +e
    slot=$(bed_slot "$1") || { bed_say "there is no bed '$1'"; exit 0; }
    BED=$(<"$beds/$slot/dir") SLOT=$slot
    BRIDGE=ptbed$SLOT
    # If `up` failed early, there is no env file, and nothing was started.
    if [[ -s $BED/env ]]; then
        # shellcheck disable=SC1091
        . "$BED/env"
        bed_remove_pods
        bed_end pontoon TERM
        bed_remove_containers
        bed_end containerd TERM
        bed_end registry TERM
    fi
    bed_collect_ids
    bed_kill_processes
    bed_remove_netns_of_ids
    bed_unmount
    bed_remove_links
    bed_remove_rules iptables
    bed_remove_rules ip6tables
    bed_remove_cgroups
    bed_remove_cni_cache
    bed_remove_dir
    bed_locked bed_release
    [[ ! -e $BED ]]
)

bed_release() {
    local slots
    rm -rf "${beds:?}/$SLOT"
    slots=("$beds"/[0-9]*)
    [[ -e ${slots[0]} ]] || bed_restore_shared
}

# First removes the pods by CRI, with a timeout: the bed must be removed even if CRI hangs.
bed_remove_pods() {
    local daemon=pontoon
    [[ $TARGET == pontoon ]] || daemon=containerd
    bed_alive "$daemon" || return 0
    timeout 60 "$BIN/crictl" --config "$BED/crictl.yaml" --timeout 30s rmp --all --force >>"$BED/logs/down.log" 2>&1 ||
        bed_say "crictl rmp --all --force failed: $(tail -n 1 "$BED/logs/down.log")"
}

# Deletes the tasks that the CRI server left in containerd, while containerd can still call their shims.
bed_remove_containers() {
    local task
    bed_alive containerd || return 0
    while read -r task; do
        timeout 20 "$BIN/ctr" --address "$CONTAINERD_ADDRESS" -n k8s.io task delete --force "$task" >>"$BED/logs/down.log" 2>&1 || true
    done < <(timeout 20 "$BIN/ctr" --address "$CONTAINERD_ADDRESS" -n k8s.io task list --quiet 2>/dev/null)
}

# Collects the ids for which this bed may have created network namespaces, cgroups and CNI results: all strings of 64 hex
# digits in containerd's database and the bed's directories. Some are digests, which does no harm: nothing on the node is
# named after a digest. They are read from the database file, because containerd may not run any more; its free pages still
# have the ids of deleted containers.
bed_collect_ids() {
    {
        find "$BED/containerd/root" -maxdepth 2 -name meta.db -exec cat {} + 2>/dev/null
        find "$BED/containerd/state" "$BED/run" "$BED/root" "$BED/runc" "$BED/cni" -maxdepth 4 2>/dev/null
    } | grep -oaE '[0-9a-f]{64}' | sort -u >"$beds/$SLOT/ids" || true
}

# bed_matching_ids: prints the lines of stdin that contain an id of this bed.
bed_matching_ids() { grep -F -f "$beds/$SLOT/ids" || true; }

# bed_pids: prints the pids of this bed's processes. Daemons, shims, loggers and runc have the bed's path in an argument or
# as working directory (a shim's is the bundle); container processes are in a cgroup of this bed. A process that only reads
# the bed's logs, such as tail, does not count.
bed_pids() {
    local pid
    {
        while read -r pid; do
            ! bed_is_ours "$pid" || printf '%s\n' "$pid"
        done < <(ps -eo pid=,comm= | awk '$2 ~ /^(containerd|pontoon|runc|docker-registry)/ { print $1 }')
        find /proc/[0-9]*/cwd -maxdepth 0 -lname "$BED/containerd/*" 2>/dev/null | cut -d/ -f3
        # shellcheck disable=SC2062  # the glob names the files
        {
            cat "$beds/$SLOT/ids"
            printf '/ptbed%s/\n' "$SLOT"
        } | grep -lF -f - /proc/[0-9]*/cgroup 2>/dev/null | cut -d/ -f3
    } | sort -u | while read -r pid; do
        # Without zombies.
        [[ -z $(tr -d '\0' 2>/dev/null <"/proc/$pid/cmdline") ]] || printf '%s\n' "$pid"
    done
}

bed_kill_processes() {
    local turns pids
    for turns in {1..100}; do
        pids=$(bed_pids)
        [[ -n $pids ]] || return 0
        ((turns > 1)) || bed_say "still running, killed:$(bed_names "$pids")"
        # shellcheck disable=SC2086  # a list of numbers
        kill -KILL $pids 2>/dev/null || true
        sleep 0.1
    done
    bed_say "processes that SIGKILL does not end:$(bed_names "$pids")"
}

bed_names() {
    local pid
    for pid in $1; do
        printf ' %s(%s)' "$(cat "/proc/$pid/comm" 2>/dev/null || echo gone)" "$pid"
    done
}

bed_remove_netns() {
    umount --lazy "$1" 2>/dev/null || true
    rm -f "$1"
}

bed_remove_netns_of_ids() {
    local path
    while read -r path; do
        bed_remove_netns "$path"
    done < <(find /var/run/netns -maxdepth 1 -name 'pontoon-*' 2>/dev/null | bed_matching_ids)
}

bed_mounts() { awk -v bed="$BED/" 'index($5, bed) == 1 { print $5 }' /proc/self/mountinfo | sort -r; }

# Deepest first, and lazily, because a process that is about to end may still use a mount.
bed_unmount() {
    local path
    while read -r path; do
        umount --lazy "$path" 2>/dev/null || true
    done < <(bed_mounts)
}

# If a mount is left below the directory, rm would delete the files of that mount, perhaps a directory of the host.
bed_remove_dir() {
    if [[ -n $(bed_mounts) ]]; then
        bed_say "mounts that do not go away, so $BED stays: $(bed_mounts | paste -sd ' ')"
        return 1
    fi
    rm -rf --one-file-system "$BED"
}

bed_remove_links() {
    local link
    ip link show "$BRIDGE" >/dev/null 2>&1 || return 0
    while read -r link; do
        ip link delete "$link" 2>/dev/null || true
    done < <(ip -o link show master "$BRIDGE" | awk -F': ' '{ sub("@.*", "", $2); print $2 }')
    ip link delete "$BRIDGE"
}

# bed_remove_rules COMMAND: removes the rules of attachments for which no CNI DEL ran. Each attachment has its own chains,
# and the rules that jump to them name the network in their comment.
bed_remove_rules() {
    local command=$1 table
    for table in filter nat mangle; do
        # shellcheck disable=SC2046  # a list of chains
        bed_delete_chains "$command" $table $("$command-save" -t $table 2>/dev/null | grep -F "name: \\\"$BRIDGE\\\"" |
            sed -nE 's/.* -j (CNI-(DN-)?[0-9a-f]{16,})( .*)?$/\1/p' | sort -u)
    done
}

bed_remove_cgroup() {
    find "$1" -depth -type d -exec rmdir {} + 2>/dev/null || [[ ! -d $1 ]] || bed_say "cgroup $1 cannot be removed"
}

bed_remove_cgroups() {
    local path
    while read -r path; do
        [[ -d $path ]] && bed_remove_cgroup "$path"
    done < <(
        exec 2>/dev/null
        find /sys/fs/cgroup -maxdepth 2 -type d -name "ptbed$SLOT"
        find /sys/fs/cgroup -mindepth 2 -type d -regextype posix-extended -regex '.*[0-9a-f]{64}[^/]*' | bed_matching_ids
    )
}

# The built-in CRI has no option for the directory of its CNI results.
bed_remove_cni_cache() {
    local path
    while read -r path; do
        rm -f "$path"
    done < <(find /var/lib/cni/results -type f 2>/dev/null | { grep -F "/$BRIDGE-" || true; })
    while read -r path; do
        rm -f "$path"
    done < <(find /var/lib/cni/results -type f 2>/dev/null | bed_matching_ids)
}

# ---- subcommands --------------------------------------------------------------------------------------------------------

# bed_process pontoon|containerd NAME start|stop|kill|abort
bed_process() {
    local process=$1
    BED=$(bed_dir_of "$2")
    # shellcheck disable=SC1091
    . "$BED/env"
    case ${3:-} in
    start) "bed_start_$process" ;;
    stop) bed_end "$process" TERM ;;
    kill) bed_end "$process" KILL ;;
    abort) bed_end "$process" ABRT ;;
    *) bed_die "start, stop, kill or abort, not '${3:-}'" ;;
    esac
}

bed_list() {
    local slot
    for slot in "$beds"/[0-9]*; do
        [[ ! -e $slot/name ]] || printf '%s\t%s\t%s\n' "$(basename "$slot")" "$(<"$slot/name")" "$(<"$slot/dir")"
    done
}

bed_main() {
    case ${1:-} in
    up) bed_up "${2:?name}" "${3:-}" ;;
    down) bed_down "${2:?name}" ;;
    daemon) bed_process pontoon "${2:?name}" "${3:-}" ;;
    containerd | registry) bed_process "$1" "${2:?name}" "${3:-}" ;;
    env) printf '%s/env\n' "$(bed_dir_of "${2:?name}")" ;;
    list) bed_list ;;
    *) sed -n '2,/^# shellcheck/{/^# shellcheck/!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
    esac
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
    bed_main "$@"
fi
