#!/usr/bin/env bash
# Usage: docs.sh [DIRECTORY]
#
# Build the documentation site from docs/ into DIRECTORY (site/ unless given). A warning, such as a broken link, is
# an error. Sets up .venv on first use.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts-dev/setup.sh dev
exec .venv/bin/mkdocs build --strict --site-dir "${1:-$PWD/site}"
