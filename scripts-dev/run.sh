#!/usr/bin/env bash
# Usage: run.sh [ARGUMENT ...]
#
# The main job, `trafficlight run ARGUMENT ...`, in this checkout; sets up .venv on first use.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
"$here/setup.sh" run
exec "$here/../.venv/bin/trafficlight" run "$@"
