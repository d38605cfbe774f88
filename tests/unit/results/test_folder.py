import logging
import os
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path

import pytest

from trafficlight.results.folder import ResultsFolder, write_atomically

TODAY = date(2026, 11, 21)


def _create(root: Path) -> str:
    return ResultsFolder.create(root, TODAY).id


def test_folders_are_numbered_and_current_points_to_the_newest(tmp_path: Path) -> None:
    root = tmp_path / "deep" / "results"
    assert [_create(root) for _ in range(3)] == [f"2026-11-21--00{number}" for number in (1, 2, 3)]
    assert os.readlink(root / "current") == "2026-11-21--003"
    # A run that fails before its end must not leave the results of an older one there.
    assert os.readlink(root / "latest") == "2026-11-21--003"
    (root / "2026-11-21--999").mkdir()
    assert _create(root) == "2026-11-21--1000"
    assert ResultsFolder.create(root, date(2026, 11, 22)).id == "2026-11-22--001"


def test_processes_that_start_at_once_get_distinct_folders(tmp_path: Path) -> None:
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        names = list(pool.map(_create, [tmp_path] * 30))
    assert len(set(names)) == 30
    assert (tmp_path / "current").is_dir()
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".")]


def test_finish_moves_latest_and_leaves_the_current_of_another_session(tmp_path: Path) -> None:
    one = ResultsFolder.create(tmp_path, TODAY)
    two = ResultsFolder.create(tmp_path, TODAY)
    one.finish()
    assert os.readlink(tmp_path / "latest") == one.id
    assert os.readlink(tmp_path / "current") == two.id
    two.finish()
    assert os.readlink(tmp_path / "latest") == two.id
    assert not (tmp_path / "current").is_symlink()
    assert ResultsFolder.open(tmp_path / "latest").id == two.id


def test_a_folder_in_the_place_of_a_link_ends_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "latest").mkdir()
    with caplog.at_level(logging.WARNING):
        ResultsFolder.create(tmp_path, TODAY).finish()
    assert "latest to 2026-11-21--001: it is no link, and still shows what it did" in caplog.text


def test_opening_what_is_not_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ResultsFolder.open(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        ResultsFolder.open(tmp_path / "file")


def test_an_attempt_has_its_places(folder: ResultsFolder) -> None:
    attempt = folder.attempt("chat/a_test.py::A[alice=Nio]", 1)
    assert attempt.path == folder.path / "cases/chat.a_test/A/alice=Nio/attempt-1"
    attempt.create(["server"])
    assert attempt.path.is_dir()
    assert attempt.client("alice") == attempt.path / "clients/alice"
    assert attempt.server_log("server") == attempt.path / "servers/server/homeserver.log"
    assert attempt.server_log("server").parent.is_dir()
    assert folder.attempt("chat/a_test.py::A[alice=Nio]", 1).path == attempt.path
    assert folder.attempt("chat/a_test.py::A[alice=Nio]", 2).path != attempt.path


def test_a_role_cannot_leave_its_folder(folder: ResultsFolder) -> None:
    attempt = folder.attempt("a_test.py::A", 1)
    attempt.create()
    for role in ("../..", "/etc", "a/b", "", ".", "x" * 400):
        assert attempt.client(role).parent == attempt.path / "clients"


def test_attachments_of_one_name_are_all_kept(folder: ResultsFolder) -> None:
    attempt = folder.attempt("a_test.py::A", 1)
    attempt.create()
    with ThreadPoolExecutor(8) as pool:
        paths = list(pool.map(lambda _: attempt.attachment("my shot.png"), range(20)))
    assert len(set(paths)) == 20
    assert attempt.path / "attachments/my shot.png" in paths
    assert attempt.path / "attachments/my shot-2.png" in paths
    assert all(path.exists() for path in paths)
    assert attempt.attachment("../../../x").parent == attempt.path / "attachments"


def test_any_case_id_gives_a_folder_on_a_real_disk(folder: ResultsFolder) -> None:
    ids = [f"a_test.py::T[text={text}]" for text in ("/" * 300, "é" * 300, "..", "\x00", "\ud800", "~", "")]
    paths = {folder.attempt(case_id, 1).path for case_id in ids}
    assert len(paths) == len(ids)
    assert all(folder.path in path.resolve().parents for path in paths)


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "junit.xml"
    write_atomically(path, b"old")

    def refuse(source: object, target: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["junit.xml"]
