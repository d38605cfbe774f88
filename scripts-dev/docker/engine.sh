#!/usr/bin/env bash
# Usage: engine.sh start|stop
#
# `start` makes sure that a Docker engine answers and prints its DOCKER_HOST: one that runs already, or one of
# our own, with its data in the cache folder. As root on Debian it installs what is missing.
# `stop` ends our own engine with everything that runs in it, and no other.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

pid_file=$cache/dockerd.pid
log=$cache/dockerd.log
patience=300 # tenths of a second

start() {
    if command -v docker >/dev/null && find_engine; then
        printf '%s\n' "$DOCKER_HOST"
        return
    fi
    if ! command -v dockerd >/dev/null || ! command -v docker >/dev/null; then
        apt_install docker.io
    fi
    [[ $(id -u) == 0 ]] || die "no Docker engine answers, and only root can start one"
    rm -f "$pid_file"
    # Its own session: Ctrl-C in the terminal is not meant for it.
    setsid dockerd --data-root "$cache/data" --exec-root "$cache/exec" -p "$pid_file" \
        -H "unix://$cache/docker.sock" </dev/null >"$log" 2>&1 &
    local -i waited=0
    until DOCKER_HOST=unix://$cache/docker.sock docker version >/dev/null 2>&1; do
        if ! kill -0 $! 2>/dev/null || ((waited++ > patience)); then
            tail -n 20 "$log" >&2
            die "dockerd did not come up; its log is $log"
        fi
        sleep 0.1
    done
    printf 'unix://%s\n' "$cache/docker.sock"
}

stop() {
    local pid
    pid=$(cat "$pid_file" 2>/dev/null) || return 0
    kill "$pid" 2>/dev/null || return 0
    local -i waited=0
    while kill -0 "$pid" 2>/dev/null; do
        ((waited++ < patience)) || die "dockerd ($pid) does not end"
        sleep 0.1
    done
}

case ${1:-} in
    start) start ;;
    stop) stop ;;
    *) die "usage: engine.sh start|stop" ;;
esac
