#!/usr/bin/env bash
# Serves the images of build.sh with docker-registry on 127.0.0.1, read-only, directly from the cache.
#
#   registry.sh up DIR [--port PORT] [--auth USER:PASSWORD]   starts a registry and prints its port
#   registry.sh down DIR                                      stops it and removes DIR
#
# DIR has the registry's configuration, log and pid. Several registries can run at once, each with its own DIR. Without
# --port a free port is chosen. With --auth each request needs that user and password, to test wrong ones.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { printf 'registry: %s\n' "$*" >&2; }

# running DIR: a pid file may be stale and its pid belong to another process, so the arguments are compared. A zombie has
# no arguments.
running() {
    [[ -s $1/pid ]] && tr '\0' '\n' 2>/dev/null <"/proc/$(<"$1/pid")/cmdline" | grep -qxF "$1/config.yml"
}

# bcrypt, the only hash that docker-registry accepts. Debian's crypt(3) supports it, and each Debian system has perl-base.
write_htpasswd() {
    local user=${2%%:*} password=${2#*:}
    # shellcheck disable=SC2016  # variables of perl
    printf '%s:%s\n' "$user" "$(PASSWORD=$password perl -e 'print crypt($ENV{PASSWORD}, q($2b$04$pontoontestregistrysa.))')" >"$1"
}

write_config() {
    local dir=$1 port=$2 auth=$3
    cat >"$dir/config.yml" <<END
version: 0.1
log: {level: info, accesslog: {disabled: false}}
storage:
  filesystem: {rootdirectory: $images/storage}
  cache: {blobdescriptor: inmemory}
  maintenance: {readonly: {enabled: true}}
http: {addr: 127.0.0.1:$port, secret: pontoon}
END
    [[ -z $auth ]] || printf 'auth: {htpasswd: {realm: pontoon, path: %s}}\n' "$dir/htpasswd" >>"$dir/config.yml"
}

# start DIR PORT AUTH: fails if the port is in use.
start() {
    local dir=$1 port=$2 deadline=$((SECONDS + 20))
    write_config "$@"
    rm -f "$dir/pid"
    # shellcheck disable=SC2016  # the inner shell expands them
    setsid --fork bash -c 'echo $$ >"$1/pid"; exec docker-registry serve "$1/config.yml"' - "$dir" >>"$dir/log" 2>&1 </dev/null
    # Checks the log too, not only a request: if the port is in use, another server answers the request.
    until grep -q 'listening on' "$dir/log" && curl --silent --output /dev/null "http://127.0.0.1:$port/v2/"; do
        if ((SECONDS > deadline)) || { [[ -s $dir/pid ]] && ! running "$dir" && sleep 0.2 && ! running "$dir"; }; then
            return 1
        fi
        sleep 0.05
    done
}

up() {
    local dir=${1:?directory} port='' auth='' turn
    shift
    while [[ $# -gt 0 ]]; do
        case $1 in
        --port) port=$2 ;;
        --auth) auth=$2 ;;
        *) say "unknown option '$1'"; exit 2 ;;
        esac
        shift 2
    done
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    ! running "$dir" || { say "runs already in $dir"; exit 1; }
    images=$("$here/build.sh")
    [[ -z $auth ]] || write_htpasswd "$dir/htpasswd" "$auth"
    # Below the ephemeral ports, so that no outgoing connection uses the port.
    for turn in 1 2 3 4 5 6 7 8; do
        if start "$dir" "${port:-$((RANDOM % 10000 + 20000))}" "$auth"; then
            sed -n 's/^http: {addr: 127.0.0.1:\([0-9]*\),.*/\1/p' "$dir/config.yml"
            return
        fi
        [[ -z $port ]] || break
    done
    say "does not start, $turn tries; the end of its log:"
    tail -n 5 "$dir/log" >&2
    exit 1
}

down() {
    local dir=${1:?directory} turns=0
    [[ -d $dir ]] || return 0
    dir=$(cd "$dir" && pwd)
    if running "$dir"; then
        kill "$(<"$dir/pid")"
        while running "$dir"; do
            turns=$((turns + 1))
            ((turns != 100)) || kill -KILL "$(<"$dir/pid")"
            sleep 0.05
        done
    fi
    # Removes only the files that this script created, because DIR belongs to the caller.
    rm -f "$dir"/{config.yml,log,pid,htpasswd}
    rmdir "$dir" 2>/dev/null || true
}

case ${1:-} in
up) shift; up "$@" ;;
down) down "${2:-}" ;;
*) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
