#!/usr/bin/env bash
# Usage: homerunner.sh [VERSION OF COMPLEMENT]
#
# Build homerunner from its Go module and print where it is. Does nothing where it is built already.
# The version is what `go get` takes: latest, a commit, or a pseudo-version; HOMERUNNER_VERSION sets it too.
set -euo pipefail

. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

version=${1:-${HOMERUNNER_VERSION:-latest}}
module=github.com/matrix-org/complement
program=$cache/bin/homerunner
log=$cache/homerunner.log

if [[ -x $program && $(cat "$program.version" 2>/dev/null) == "$version" ]]; then
    printf '%s\n' "$program"
    exit
fi
command -v go >/dev/null || die "homerunner is built with Go, which is not on the PATH (https://go.dev/dl)"
work=$(mktemp -d "$cache/homerunner.XXXXXX")
trap 'rm -rf "$work"' EXIT
cd "$work"
# The module is named, not the package in it: then Go does not ask for modules that do not exist.
if ! { go mod init homerunner && go get "$module@$version" &&
    go build -mod=mod -o homerunner "$module/cmd/homerunner"; } >"$log" 2>&1; then
    tail -n 5 "$log" >&2
    die "homerunner ($module at $version) could not be built; the whole log is $log"
fi
mkdir -p "$cache/bin"
mv homerunner "$program"
printf '%s\n' "$version" >"$program.version"
printf '%s\n' "$program"
