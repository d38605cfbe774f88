#!/usr/bin/env bash
# Usage: test.sh [PYTEST ARGUMENT ...]
#
# Run the tests; sets up .venv on first use. Without arguments all of them, those that need Docker at the end,
# where an engine can be had. With CI=true a skipped test is a failure.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts-dev/setup.sh dev
if (($#)); then
    exec .venv/bin/python -m pytest "$@"
fi
.venv/bin/python -m pytest -m "not docker and not homerunner"
scripts-dev/docker/test.sh
