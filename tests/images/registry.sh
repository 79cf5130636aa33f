#!/usr/bin/env bash
# Serves the images of build.sh by docker-registry on 127.0.0.1, read-only, straight from the cache.
#
#   registry.sh up DIR [--port PORT] [--auth USER:PASSWORD]   starts it, prints its port
#   registry.sh down DIR                                      stops it and removes DIR
#
# DIR has its configuration, log and pid; several can run side by side, each with a DIR of its own. Without --port a free
# one is taken. With --auth every request needs that user, so that a wrong password can be tested.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { printf 'registry: %s\n' "$*" >&2; }

# running DIR: a pid file may be stale and its number another's, so the argument is compared; one that has ended and
# waits to be reaped has no arguments.
running() {
    [[ -s $1/pid ]] && tr '\0' '\n' 2>/dev/null <"/proc/$(<"$1/pid")/cmdline" | grep -qxF "$1/config.yml"
}

# bcrypt, the only form that docker-registry takes. crypt(3) of Debian has it and perl-base is on every Debian.
write_htpasswd() {
    local user=${2%%:*} password=${2#*:}
    # shellcheck disable=SC2016  # perl's variables
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

# start DIR PORT AUTH: fails when the port is taken.
start() {
    local dir=$1 port=$2 deadline=$((SECONDS + 20))
    write_config "$@"
    rm -f "$dir/pid"
    # shellcheck disable=SC2016  # the inner shell's words
    setsid --fork bash -c 'echo $$ >"$1/pid"; exec docker-registry serve "$1/config.yml"' - "$dir" >>"$dir/log" 2>&1 </dev/null
    # Asked through its log and not only by a request: on a taken port someone else would answer.
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
    # Below the ephemeral ports, so that no outgoing connection has it.
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
    # Only what was put there: DIR is the caller's.
    rm -f "$dir"/{config.yml,log,pid,htpasswd}
    rmdir "$dir" 2>/dev/null || true
}

case ${1:-} in
up) shift; up "$@" ;;
down) down "${2:-}" ;;
*) sed -n '2,/^set /{/^set /!s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" >&2; exit 2 ;;
esac
