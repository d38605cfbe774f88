"""Test files and files of attempts, on their way between machines."""

import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.coordinator.waiting import case_of
from trafficlight.client_types import Nio
from trafficlight.coordinator.dask import files
from trafficlight.coordinator.dask.files import pack, place, relocated, take, trees_of, unpack
from trafficlight.errors import UsageError
from trafficlight.suites.imports import SHIPPED
from trafficlight.suites.model import Case


@pytest.fixture
def case(tmp_path: Path) -> Case:
    package = tmp_path / "there" / "package"
    for name in ("__init__.py", "helper.py", "inner/__init__.py", "inner/a_test.py", ".hidden/no.py"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(f"# {name}")
    return replace(case_of("a", {"alice": Nio()}), path=package / "inner" / "a_test.py")


def test_what_a_test_file_imports_comes_with_it(case: Case, tmp_path: Path) -> None:
    trees = trees_of([case, replace(case, path=SHIPPED / "chat" / "some_test.py")])
    content = pack(trees)
    (tmp_path / "there").rename(tmp_path / "gone")

    base = place(trees, content, tmp_path / "here")
    moved = relocated(case, base, SHIPPED)

    assert moved.path.read_text() == "# inner/a_test.py"
    assert (moved.path.parents[1] / "helper.py").is_file()
    assert not list((tmp_path / "here").rglob("no.py"))
    assert (moved.id, moved.file) == (case.id, case.file)


def test_equal_files_at_the_same_place_are_used_where_they_are(case: Case, tmp_path: Path) -> None:
    trees = trees_of([case])
    content = pack(trees)
    assert relocated(case, place(trees, content, tmp_path / "here"), SHIPPED) == case

    case.path.write_text("# another one")

    assert relocated(case, place(trees, content, tmp_path / "here"), SHIPPED) != case


def test_suites_that_ship_are_those_of_the_machine(case: Case) -> None:
    there = Path("/elsewhere/trafficlight/tests")
    moved = relocated(replace(case, path=there / "chat" / "some_test.py"), Path("/unused"), there)
    assert moved.path == SHIPPED / "chat" / "some_test.py"


def test_a_folder_that_is_too_large_is_refused(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MOST", 1000)
    with pytest.raises(UsageError, match=r"package are more than .* MiB, too much for test files"):
        pack(trees_of([case]))


def test_files_of_an_attempt_move_and_its_folders_stay(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    (here / "clients" / "alice").mkdir(parents=True)
    assert take(here) == b""
    (here / "clients" / "alice" / "shown.png").write_bytes(b"a picture")

    unpack(take(here), there)

    assert (there / "clients" / "alice" / "shown.png").read_bytes() == b"a picture"
    assert (here / "clients" / "alice").is_dir()
    assert take(here) == b""


def test_an_archive_writes_nothing_outside_of_its_folder(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("../outside", "inside"):
            archive.addfile(tarfile.TarInfo(name))

    unpack(buffer.getvalue(), tmp_path / "folder")

    assert [path.name for path in tmp_path.rglob("*side")] == ["inside"]
