"""The command that adds an extra to an installation, by where the installation came from."""

import json
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from trafficlight import version
from trafficlight.version import install_command


class _Distribution:
    def __init__(self, origin: object) -> None:
        self._origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self._origin is None else json.dumps(self._origin)


@pytest.mark.parametrize(
    ("origin", "shown"),
    [
        (None, "'matrix-trafficlight[lab]'"),
        (
            {"url": "https://git.example.org/t", "vcs_info": {"vcs": "git", "commit_id": "1"}},
            "'matrix-trafficlight[lab] @ git+https://git.example.org/t'",
        ),
        ({"url": "file:///src/t", "dir_info": {}}, "'matrix-trafficlight[lab] @ file:///src/t'"),
        ({"url": "file:///src/t", "dir_info": {"editable": True}}, "--editable '/src/t[lab]'"),
        ({"url": "file:///t.whl", "archive_info": {}}, "'matrix-trafficlight[lab] @ file:///t.whl'"),
    ],
)
def test_names_the_place_it_was_installed_from(
    monkeypatch: pytest.MonkeyPatch, origin: object, shown: str
) -> None:
    monkeypatch.setattr(version, "distribution", lambda _: _Distribution(origin))
    monkeypatch.setattr(sys, "executable", "/opt/my python")

    assert install_command("lab") == f"'/opt/my python' -m pip install {shown}"


def test_a_source_tree_that_was_never_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(version, "distribution", missing)

    assert install_command("docker").endswith(" -m pip install 'matrix-trafficlight[docker]'")
