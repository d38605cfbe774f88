"""The token of a coordinator that has none in its settings."""

import os
import stat
from pathlib import Path

import pytest

from trafficlight.errors import ConfigError
from trafficlight.http.local_token import LocalToken, create_token, find_token, remove_token

HERE = "127.0.0.1"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state"


def killed(token: LocalToken) -> None:
    """Let go of a token as a process that is killed does."""
    assert token.lock is not None
    os.close(token.lock)


def test_it_is_private_and_new_for_each_coordinator() -> None:
    token, other = create_token(HERE, 5000), create_token(HERE, 5001)
    assert token.value != other.value
    assert stat.S_IMODE(token.path.stat().st_mode) == 0o600
    killed(token)
    again = create_token(HERE, 5000)
    assert again.value != token.value
    remove_token(again)
    remove_token(other)


def test_commands_on_the_same_machine_find_it() -> None:
    token = create_token(HERE, 5000)
    assert find_token("http://127.0.0.1:5000/lab") == (token.value, "http://127.0.0.1:5000/lab")
    # Not ::1, where another program may listen.
    assert find_token("http://localhost:5000") == (token.value, "http://127.0.0.1:5000")
    for url in (
        "http://127.0.0.1:5001",
        "http://[::1]:5000",
        "https://127.0.0.1:5000",
        "http://lab.example.org:5000",
    ):
        assert find_token(url) is None, url
    remove_token(token)
    assert find_token("http://127.0.0.1:5000") is None
    assert not token.path.exists()


@pytest.mark.parametrize(
    ("listening", "url"), [("0.0.0.0", "http://127.0.0.1:80"), ("::", "http://[::1]:80")]
)
def test_a_coordinator_on_every_address(listening: str, url: str) -> None:
    token = create_token(listening, 80)
    assert find_token("http://localhost") == (token.value, url)
    remove_token(token)


def test_the_token_of_a_killed_coordinator_is_not_sent() -> None:
    """Whoever listens on its port then may be another user of the machine."""
    token = create_token(HERE, 5000)
    killed(token)
    assert token.path.exists()
    assert find_token("http://127.0.0.1:5000") is None


def test_the_file_of_another_coordinator_is_not_deleted() -> None:
    first, second = create_token(HERE, 5000), create_token(HERE, 5000)
    remove_token(first)
    assert find_token("http://127.0.0.1:5000") == (second.value, "http://127.0.0.1:5000")
    remove_token(second)


@pytest.mark.parametrize("mode", [0o644, 0o620])
def test_a_file_that_others_can_use_is_not_read(mode: int) -> None:
    token = create_token(HERE, 5000)
    token.path.chmod(mode)
    assert find_token("http://127.0.0.1:5000") is None
    remove_token(token)


@pytest.mark.parametrize("content", ["", "short"])
def test_a_file_without_a_token(content: str) -> None:
    token = create_token(HERE, 5000)
    token.path.write_text(content)
    assert find_token("http://127.0.0.1:5000") is None
    remove_token(token)


def test_a_folder_that_cannot_be_written(state: Path) -> None:
    state.write_text("a file")
    with pytest.raises(ConfigError, match="set PEOPLE_TOKEN"):
        create_token(HERE, 5000)
    token = create_token(HERE, 5000, required=False)
    assert (len(token.value) > 30, token.lock) == (True, None)
    remove_token(token)


def test_a_file_that_cannot_be_removed_costs_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    before = len(os.listdir("/proc/self/fd"))
    token = create_token(HERE, 5000)
    monkeypatch.setattr(Path, "unlink", refuse)
    remove_token(token)
    assert len(os.listdir("/proc/self/fd")) == before
