#!/usr/bin/env bash
# Usage: lock.sh [--upgrade]
#
# Write the locks, requirements.txt (to run) and requirements-dev.txt (to develop), from pyproject.toml: exact
# versions with the hashes of their files, for every Python and platform. What is locked already stays as it is
# unless that no longer fits, or --upgrade is given.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts-dev/setup.sh dev

compile() {
    .venv/bin/python -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
        --no-header --no-annotate --no-emit-index-url --no-emit-find-links "$@"
}

.venv/bin/python -m pip --disable-pip-version-check install --quiet uv
build=scripts-dev/requirements-build.in
dev=scripts-dev/requirements-dev.txt
compile pyproject.toml "$build" --all-extras --group dev "$@" --output-file "$dev"
# The same versions, less what only development needs.
compile pyproject.toml "$build" --extra lab --extra compat --constraints "$dev" --output-file scripts-dev/requirements.txt
