#!/usr/bin/env bash
# Usage: lint.sh
#
# Everything that is checked without running the code: style, format, types, and that imports go down the
# layers. Sets up .venv on first use. Runs every check, and fails if one does.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts-dev/setup.sh dev
bin=.venv/bin
failed=0

check() {
    printf '== %s\n' "$*"
    "$bin/$1" "${@:2}" || failed=1
}

check ruff check .
check ruff format --check .
check mypy
check mypy scripts-dev
check lint-imports
exit "$failed"
