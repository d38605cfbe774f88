#!/usr/bin/env bash
# Usage: images.sh [SYNAPSE VERSION]
#
# Build complement-synapse:stable on the engine that engine.sh started (or DOCKER_HOST), without pulling
# anything: a Debian from debootstrap, wheels from the package index. Does nothing if it is built already.
# The default version is that of the setting SYNAPSE_VERSION.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

version=${1:-$(sed -n 's/^SYNAPSE_VERSION = "\(.*\)"$/\1/p' "$root/trafficlight/config.py")}
suite=bookworm
packages=ca-certificates,curl,python3,python3-pip,python3-venv
source=$root/tests/docker/synapse
image=complement-synapse:$version
base=trafficlight-base:$suite
key=trafficlight.inputs

find_engine || die "no Docker engine answers: scripts-dev/docker/engine.sh start"

base_inputs=$(printf '%s' "$suite $packages" | cksum)
inputs=$(cat <(printf '%s' "$version $base_inputs") "$source/Dockerfile" "$source/start.py" | cksum)

# Print what an image was built from; nothing where there is none.
built_from() {
    docker image inspect --format "{{index .Config.Labels \"$key\"}}" "$1" 2>/dev/null || true
}

if [[ $(built_from "$image") != "$inputs" ]]; then
    work=$(mktemp -d "$cache/build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    if [[ $(built_from "$base") != "$base_inputs" ]]; then
        command -v debootstrap >/dev/null || apt_install debootstrap
        say "making a Debian $suite, half a minute"
        debootstrap --variant=minbase "--include=$packages" "$suite" "$work/system" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} >"$cache/debootstrap.log" 2>&1 ||
            { tail -n 20 "$cache/debootstrap.log" >&2; die "debootstrap failed"; }
        rm -rf "$work"/system/var/cache/apt/archives/*.deb "$work"/system/var/lib/apt/lists/*
        tar -C "$work/system" --numeric-owner -c . |
            docker import --change "LABEL $key=\"$base_inputs\"" - "$base" >/dev/null
    fi
    say "building $image"
    mkdir "$work/context"
    wheels=$cache/wheels/$version
    "${PYTHON:-python3}" -m pip --disable-pip-version-check --quiet download --only-binary :all: \
        --python-version 3.11 --implementation cp --dest "$wheels" "matrix-synapse==$version" setuptools >&2
    cp -r "$wheels" "$work/context/wheels"
    cp "$source/Dockerfile" "$source/start.py" "$work/context"
    DOCKER_BUILDKIT=0 docker build --network none --build-arg "BASE=$base" --build-arg "SYNAPSE_VERSION=$version" \
        --label "$key=$inputs" --tag "$image" "$work/context" >"$cache/build.log" 2>&1 ||
        { tail -n 30 "$cache/build.log" >&2; die "building $image failed"; }
fi
docker tag "$image" complement-synapse:stable
say "$image is complement-synapse:stable"
