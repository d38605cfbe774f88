#!/usr/bin/env bash
# Usage: setup.sh run|dev
#
# Make .venv hold what the lock names: `run` is what trafficlight needs, `dev` what its own tests need too.
# Does nothing where that is so already. Progress goes to standard error.
set -euo pipefail

kind=${1:?run or dev}
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
stamp=$venv/set-up.stamp
log=$venv/set-up.log

# What the environment is made from: these files, at this place.
sources=$(cat pyproject.toml scripts-dev/requirements.txt scripts-dev/requirements-dev.txt | cksum)
was_kind='' was_place='' was_sources=''
if [[ -f $stamp ]]; then
    { read -r was_kind && read -r was_place && read -r was_sources; } <"$stamp" || true
fi
# What `dev` installs includes what `run` needs.
if [[ $was_place == "$PWD" && $was_sources == "$sources" && ($was_kind == "$kind" || $was_kind == dev) ]]; then
    exit 0
fi

say() {
    printf '%s\n' "$*" >&2
}

# Print the first Python that will do.
find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.11 python3.12 python3.13 python3.14 python; do
        if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    say "trafficlight needs Python 3.11 or newer, with the modules venv and ensurepip, and found none on PATH."
    say "Install it (on Debian: apt-get install python3 python3-venv) or name it: PYTHON=/path/to/python3"
    return 2
}

# Keep what pip writes, and show how far it is: one line that changes on a terminal, some lines in a pipe.
show_progress() {
    local line count=0
    while IFS= read -r line; do
        printf '%s\n' "$line" >>"$log"
        case $line in
            Collecting\ *)
                count=$((count + 1))
                if [[ -t 2 ]]; then
                    printf '\r  %d packages collected' "$count" >&2
                elif ((count % 20 == 0)); then
                    say "  $count packages collected"
                fi
                ;;
            Installing\ collected\ packages*)
                if [[ -t 2 ]]; then
                    printf '\r' >&2
                fi
                if ((count > 0)); then
                    say "  $count packages collected, unpacking them"
                fi
                ;;
        esac
    done
}

pip_install() {
    if ! "$venv/bin/python" -m pip --disable-pip-version-check --no-input install "$@" 2>&1 | show_progress; then
        say "Setting up $venv failed; this is the end of $log:"
        tail -n 20 "$log" >&2
        exit 1
    fi
}

if ! mkdir -p "$venv" 2>/dev/null || [[ ! -w $venv ]]; then
    say "$PWD/$venv cannot be written: use a checkout of your own, made by: git clone $PWD DIRECTORY"
    exit 2
fi

lock=scripts-dev/requirements.txt
if [[ $kind == dev ]]; then
    lock=scripts-dev/requirements-dev.txt
fi

python=$(find_python)
say "Setting up $venv with $("$python" --version) from $lock (on first use and after changes; about a minute)"
rm -f "$stamp"
if [[ -n $was_place && $was_place != "$PWD" ]] || ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
    # There is none, or it was made elsewhere, or its Python is gone.
    "$python" -m venv --clear "$venv"
fi
: >"$log"
pip_install --require-hashes -r "$lock"
# The distribution's name in environments of earlier versions; its entry points would be found twice.
"$venv/bin/python" -m pip --disable-pip-version-check uninstall --quiet --yes trafficlight >>"$log" 2>&1
pip_install --no-deps --no-build-isolation --editable .
printf '%s\n' "$kind" "$PWD" "$sources" >"$stamp"
