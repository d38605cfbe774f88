# shellcheck shell=bash
# What the scripts here share; sourced by them.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# Everything they make lies here: the engine's data, wheels, homerunner.
cache=${TRAFFICLIGHT_DOCKER_FOLDER:-${XDG_CACHE_HOME:-$HOME/.cache}/trafficlight-docker}
mkdir -p "$cache"

say() {
    printf '%s\n' "$*" >&2
}

die() {
    say "$*"
    exit 2
}

# Install Debian packages: `apt_install PACKAGE ...`.
apt_install() {
    if [[ $(id -u) != 0 ]] || ! command -v apt-get >/dev/null; then
        die "missing: $*. Install them (on Debian, as root: apt-get install --no-install-recommends $*)"
    fi
    local -a apt=(apt-get -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3 --quiet --quiet --assume-yes)
    say "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "$@"; } >&2
}

# Point DOCKER_HOST to an engine that answers: the one that is set, the system's, or the one of engine.sh.
find_engine() {
    local candidate
    for candidate in "${DOCKER_HOST:-}" "unix:///var/run/docker.sock" "unix://$cache/docker.sock"; do
        if [[ -n $candidate ]] && DOCKER_HOST=$candidate docker version >/dev/null 2>&1; then
            export DOCKER_HOST=$candidate
            return 0
        fi
    done
    return 1
}
