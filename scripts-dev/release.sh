#!/usr/bin/env bash
# Usage: release.sh [--dry-run | --build-only] [VERSION]
#
# Check everything that a release needs, build it into dist/, and tag it. VERSION is the one in
# trafficlight/version.py unless given, and then has to be the same.
#
#   --dry-run      leave out lint, tests and the tag; everything else is checked
#   --build-only   only check version and changelog, build, and check what was built: what the workflow does
#
# Publishing is the workflow's: git push origin vVERSION.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
python=${PYTHON:-$PWD/.venv/bin/python}
mode=release
if [[ ${1:-} == --dry-run || ${1:-} == --build-only ]]; then
    mode=${1#--}
    shift
fi

die() {
    printf 'release: %s\n' "$*" >&2
    exit 1
}

say() {
    printf '== %s\n' "$*"
}

version=$(sed -n 's/^VERSION = "\(.*\)"$/\1/p' trafficlight/version.py)
tag=v$version

say "version $version"
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+((a|b|rc)[0-9]+)?$ ]] || die "trafficlight/version.py: no version of a release: '$version'"
[[ -z ${1:-} || $1 == "$version" ]] || die "trafficlight/version.py says $version, not $1"

say "changelog"
section=$(awk -v heading="## $version" '
    $0 == heading || index($0, heading " ") == 1 { found = 1; next }
    /^## / { found = 0 }
    found' CHANGELOG.md)
[[ $section =~ [^[:space:]] ]] || die "CHANGELOG.md has no section '## $version' with something in it"

if [[ $mode != build-only ]]; then
    say "tree and tag"
    [[ -z $(git status --porcelain) ]] || die "the tree is not clean: commit or remove what git status shows"
    branch=$(git branch --show-current)
    [[ $branch == main || $mode == dry-run ]] || die "on branch '$branch', not on main"
    ! git rev-parse --quiet --verify "refs/tags/$tag" >/dev/null || die "the tag $tag exists"
    unreleased=$(awk '/^## Unreleased/ { found = 1; next } /^## / { found = 0 } found' CHANGELOG.md)
    [[ ! $unreleased =~ [^[:space:]] ]] || die "CHANGELOG.md still has entries under Unreleased"
fi

if [[ $mode == release ]]; then
    scripts-dev/lint.sh
    CI=true scripts-dev/test.sh all
fi

say "build"
rm -rf dist
"$python" -m hatchling build -d dist
"$python" - "$version" dist/* <<'PYTHON'
import sys
import tarfile
import zipfile
from packaging.metadata import Metadata

version, *files = sys.argv[1:]
wheels = [file for file in files if file.endswith(".whl")]
archives = [file for file in files if file.endswith(".tar.gz")]
assert (len(wheels), len(archives)) == (1, 1), files
with zipfile.ZipFile(wheels[0]) as wheel:
    names = wheel.namelist()
    (path,) = (name for name in names if name.endswith(".dist-info/METADATA"))
    metadata = Metadata.from_email(wheel.read(path), validate=True)
with tarfile.open(archives[0]) as archive:
    sources = {name.partition("/")[2] for name in archive.getnames()}
assert metadata.name == "matrix-trafficlight", metadata.name
assert str(metadata.version) == version, metadata.version
assert metadata.description_content_type == "text/markdown" and metadata.description
assert metadata.license_files and metadata.project_urls and metadata.requires_python
assert "trafficlight/py.typed" in names and "trafficlight/__init__.py" in names
assert {"pyproject.toml", "LICENSE", "CHANGELOG.md"} <= sources, sorted(sources)[:20]
print(f"{wheels[0]}: {len(names)} files; {archives[0]}: {len(sources)} files; metadata is valid")
PYTHON

case $mode in
    dry-run) say "dry run: left out lint, tests and the tag $tag" ;;
    build-only) say "built" ;;
    release)
        git tag --annotate "$tag" --message "trafficlight $version"
        say "tagged; publish with: git push origin $tag"
        ;;
esac
