#!/usr/bin/env bash
# Usage: lint.sh
#
# Everything that is checked without running the tests: style, format, types, that imports go down the layers, that
# generated pages are up to date, and that the documentation site builds without a warning. Sets up .venv on first
# use. Runs every check, and fails if one does.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts-dev/setup.sh dev
failed=0
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT

check() {
    printf '== %s\n' "$*"
    "$@" || failed=1
}

check .venv/bin/ruff check .
check .venv/bin/ruff format --check .
check .venv/bin/mypy
check .venv/bin/mypy scripts-dev
check .venv/bin/lint-imports
check .venv/bin/python scripts-dev/reference.py --check
check scripts-dev/docs.sh "$site"
exit "$failed"
