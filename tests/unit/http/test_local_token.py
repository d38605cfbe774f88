"""The token of a coordinator that has none in its settings."""

import stat
from pathlib import Path

import pytest

from trafficlight.errors import ConfigError
from trafficlight.http.local_token import create_token, find_token, remove_token


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def test_it_stays_the_same_and_is_private() -> None:
    token = create_token(5000)
    assert create_token(5000) == token
    assert create_token(5001).value != token.value
    assert stat.S_IMODE(token.path.stat().st_mode) == 0o600


def test_commands_on_the_same_machine_find_it() -> None:
    token = create_token(5000)
    assert find_token("http://127.0.0.1:5000") == find_token("http://localhost:5000/") == token.value
    assert find_token("http://127.0.0.1:5001") is None
    assert find_token("http://lab.example.org:5000") is None
    remove_token(token)
    remove_token(token)
    assert find_token("http://127.0.0.1:5000") is None


@pytest.mark.parametrize("mode", [0o644, 0o620])
def test_a_file_that_others_can_use_is_replaced(mode: int) -> None:
    token = create_token(5000)
    token.path.chmod(mode)
    assert find_token("http://127.0.0.1:5000") is None
    assert create_token(5000).value != token.value


@pytest.mark.parametrize("content", ["", "short"])
def test_a_file_without_a_token_is_replaced(content: str) -> None:
    token = create_token(5000)
    token.path.write_text(content)
    assert len(create_token(5000).value) > 30


def test_a_folder_that_cannot_be_written(state: Path) -> None:
    state.write_text("a file")
    with pytest.raises(ConfigError, match="set PEOPLE_TOKEN"):
        create_token(5000)
    assert len(create_token(5000, required=False).value) > 30
