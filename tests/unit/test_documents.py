"""The documents say what the code says: settings, commands, dependencies, and links that lead somewhere."""

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from trafficlight.config import SYNAPSE_VERSION
from trafficlight.version import VERSION

_ROOT = Path(__file__).parents[2]
_PAGES = sorted([*_ROOT.glob("*.md"), *_ROOT.glob("docs/**/*.md")])
_NAMES = [str(page.relative_to(_ROOT)) for page in _PAGES]


def _project() -> dict[str, Any]:
    return tomllib.loads((_ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_reference_of_settings_and_commands_and_the_sample_are_up_to_date() -> None:
    checked = subprocess.run(
        [sys.executable, _ROOT / "scripts-dev" / "reference.py", "--check"], capture_output=True, text=True
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_page_for_drivers_names_the_actions_that_suites_need() -> None:
    page = (_ROOT / "docs" / "how-to" / "write-a-driver.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", page, re.MULTILINE)
    needed = {suite: [re.findall(r"`(\w+)`", cell) for cell in cells] for suite, *cells in rows}

    chat = ["register", "create_room", "invite_user", "accept_invite", "send_message"]
    assert needed["chat"][0] == [*chat, "verify_message_in_timeline"]
    # Of helpers of the tests, and of a client's method that performs several actions.
    assert {"get_room", "get_timeline", "load_earlier"} <= set(needed["crypto"][1])
    assert "find_message" not in page


def test_every_dependency_has_a_line_that_says_why() -> None:
    project = _project()
    wanted = list(project["project"]["dependencies"])
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    wanted += project["dependency-groups"]["dev"]
    wanted += project["build-system"]["requires"]
    names = {re.split(r"[\[<>=!~ ;]", requirement, maxsplit=1)[0] for requirement in wanted}

    text = (_ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE))

    assert explained == names, "docs/dependencies.md has one line for every dependency of pyproject.toml"


def _links(page: Path) -> list[str]:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def test_copies_in_the_package_are_those_that_the_document_names() -> None:
    text = (_ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    named = dict(re.findall(r"\| `([\w.-]+\.js)` \| `(\w{64})` \|", text))
    vendor = _ROOT / "trafficlight" / "static" / "vendor"
    assert named == {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in vendor.iterdir()}


@pytest.mark.parametrize("page", _PAGES, ids=_NAMES)
def test_links_between_the_pages_lead_somewhere(page: Path) -> None:
    missing = [
        link
        for link in _links(page)
        if "://" not in link and not (page.parent / (link.partition("#")[0] or page.name)).exists()
    ]

    assert not missing


@pytest.mark.parametrize("page", _PAGES, ids=_NAMES)
def test_links_to_headings_lead_to_one(page: Path) -> None:
    for link in _links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if anchor and "://" not in link and target.suffix == ".md":
            headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {_anchor(heading) for heading in headings}, link


def _anchor(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")


def test_every_picture_is_small_and_shown_with_a_text() -> None:
    pictures = set((_ROOT / "docs" / "images").iterdir())
    assert all(picture.stat().st_size < 100_000 for picture in pictures)
    shown = [
        (text, (page.parent / target).resolve())
        for page in _PAGES
        for text, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
        if not target.startswith("http")
    ]
    assert {path for _, path in shown} == pictures
    assert all(text for text, _ in shown)


def test_the_pages_name_the_default_version_of_synapse() -> None:
    named = re.compile(r"[Ss]ynapse[: ]v?(\d+\.\d+\.\d+)")
    found = {version for page in _PAGES for version in named.findall(page.read_text())}
    assert found <= {SYNAPSE_VERSION, "1.98.0"}, "1.98.0 is the example of another version"
    script = (_ROOT / "scripts-dev" / "docker" / "images.sh").read_text()
    assert not named.search(script)
    assert "trafficlight/config.py" in script


def test_every_page_is_in_the_index() -> None:
    docs = _ROOT / "docs"
    listed = {(docs / link.partition("#")[0]).resolve() for link in _links(docs / "README.md")}

    unlisted = [name for page, name in zip(_PAGES, _NAMES, strict=True) if _is_page(page, docs, listed)]

    assert not unlisted, f"not in docs/README.md: {unlisted}"


def _is_page(page: Path, docs: Path, listed: set[Path]) -> bool:
    return page.is_relative_to(docs) and page.name != "README.md" and page.resolve() not in listed


def test_the_changelog_tells_of_this_version() -> None:
    text = (_ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

    assert re.search(rf"^## {re.escape(VERSION)}\b", text, re.MULTILINE)


def test_the_walks_name_files_and_functions_that_exist() -> None:
    page = (_ROOT / "docs/explanation/architecture.md").read_text(encoding="utf-8")
    section = page.split("\n## Five walks\n")[1].split("\n## ")[0]
    steps = re.findall(r"([a-z_/]+\.(?:py|js)): (\w+(?:, \w+)*)", section)
    assert len(steps) > 40
    for file, names in steps:
        text = (_ROOT / "trafficlight" / file).read_text(encoding="utf-8")
        for name in names.split(", "):
            assert re.search(rf"(def|class|function) {name}\b", text), f"{file}: {name}"


@pytest.mark.parametrize("page", _PAGES, ids=_NAMES)
def test_curl_commands_that_change_something_send_a_token(page: Path) -> None:
    commands = re.findall(r"^curl .*(?:-X POST|--json).*$", page.read_text(encoding="utf-8"), re.MULTILINE)

    assert not [command for command in commands if '--oauth2-bearer "$TOKEN"' not in command]
