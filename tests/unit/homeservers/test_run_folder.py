"""Folders of dead owners are removed, those of living ones are not."""

import subprocess
import sys
from pathlib import Path

import pytest

from trafficlight.homeservers.local.run_folder import RunFolder, default_base

_OWNER = """
import sys
from pathlib import Path
from trafficlight.homeservers.local.run_folder import RunFolder
folder = RunFolder(Path(sys.argv[1]))
folder.open()
(folder.new("synapse") / "homeserver.db").write_text("data")
print(folder.path, flush=True)
sys.stdin.read()
"""


def test_is_removed_with_all_that_is_in_it(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.open()
    (folder.new("synapse") / "homeserver.db").write_text("data")
    folder.close()
    folder.close()
    assert list(tmp_path.iterdir()) == []


def test_closing_what_was_never_opened_does_nothing(tmp_path: Path) -> None:
    RunFolder(tmp_path).close()


def test_every_server_has_its_own(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.open()
    assert len({folder.new("synapse") for _ in range(3)}) == 3
    assert folder.path.stat().st_mode & 0o077 == 0
    folder.close()


def test_what_a_dead_owner_left_is_removed_and_what_a_living_one_has_is_not(tmp_path: Path) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    with owner.stdin, owner.stdout:
        theirs = Path(owner.stdout.readline().strip())
        assert str(owner.pid) in theirs.name
        heir = RunFolder(tmp_path)
        assert heir.reclaim() == []
        owner.kill()
        owner.wait()
    assert theirs.is_dir()
    assert heir.reclaim() == [theirs]
    assert not theirs.exists()


def test_one_process_may_have_several(tmp_path: Path) -> None:
    one, other = RunFolder(tmp_path), RunFolder(tmp_path)
    one.open()
    other.open()
    assert one.path != other.path
    assert one.path.is_dir()
    one.close()
    assert other.path.is_dir()
    other.close()


def test_only_folders_of_ours_are_looked_at(tmp_path: Path) -> None:
    (tmp_path / "trafficlight-notes").mkdir()
    (tmp_path / "trafficlight-servers-file").write_text("not a folder")
    assert RunFolder(tmp_path).reclaim() == []
    assert len(list(tmp_path.iterdir())) == 2


def test_the_default_base_exists_and_can_be_written() -> None:
    assert default_base().is_dir()


def test_the_temporary_folder_stands_in_where_memory_is_short(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("trafficlight.homeservers.local.run_folder._ENOUGH_BYTES", 2**80)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert default_base() == tmp_path
