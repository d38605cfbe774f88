#!/usr/bin/env bash
# Usage: test.sh [PYTEST ARGUMENT ...]
#
# Run the tests that need Docker: starts an engine where none runs, builds what they need, and ends that engine
# afterwards. What cannot be had here is said, and its tests are left out.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

"$root/scripts-dev/setup.sh" dev
running=0
if command -v docker >/dev/null && find_engine; then
    running=1
fi
if ! DOCKER_HOST=$("$here/engine.sh" start); then
    say "left out: everything that needs Docker, because no engine can be had here"
    exit 0
fi
export DOCKER_HOST
if ((!running)); then
    trap '"$here/engine.sh" stop' EXIT
fi
PYTHON=$root/.venv/bin/python "$here/images.sh"
marks=docker
if "$here/homerunner.sh" >/dev/null; then
    marks="docker or homerunner"
else
    say "left out: the tests with a real homerunner; those with its double run"
fi
cd "$root"
.venv/bin/python -m pytest tests/integration/homeservers tests/integration/services tests/end_to_end/test_services.py \
    -m "$marks" "$@"
