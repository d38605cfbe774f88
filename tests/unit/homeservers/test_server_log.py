"""No line of a log is lost when the file changes under it."""

import logging
import logging.handlers
from pathlib import Path

from trafficlight.homeservers.local.log import ServerLog


def test_a_server_for_a_case_writes_into_the_file_of_the_case(tmp_path: Path) -> None:
    log, target = ServerLog(tmp_path / "homeserver.log"), tmp_path / "results.log"
    log.attach(target)
    with log.path.open("a") as file:
        file.write("hello\n")
    assert target.read_text() == "hello\n"
    assert not target.is_symlink()


def test_a_server_that_watches_its_log_goes_on_in_the_file_of_the_case(tmp_path: Path) -> None:
    log, target = ServerLog(tmp_path / "homeserver.log"), tmp_path / "results.log"
    handler = logging.handlers.WatchedFileHandler(log.path)
    logger = logging.Logger("homeserver")
    logger.addHandler(handler)
    logger.info("before")
    log.attach(target)
    logger.info("after")
    handler.close()
    assert target.read_text() == "before\nafter\n"
    log.drain()
    assert target.read_text() == "before\nafter\n"


def test_what_a_server_writes_to_the_old_file_is_taken_over_once(tmp_path: Path) -> None:
    log, target = ServerLog(tmp_path / "homeserver.log"), tmp_path / "results.log"
    with log.path.open("a", buffering=1) as output:
        output.write("before\n")
        log.attach(target)
        output.write("traceback\n")
        log.drain()
        log.drain()
    assert target.read_text() == "before\ntraceback\n"
    assert log.tail() == "before\ntraceback"


def test_a_file_that_has_lines_already_keeps_them(tmp_path: Path) -> None:
    target = tmp_path / "results.log"
    target.write_text("first try\n")
    log = ServerLog(tmp_path / "homeserver.log")
    log.path.write_text("second try\n")
    log.attach(target)
    assert target.read_text() == "first try\nsecond try\n"


def test_the_tail_is_whole_lines(tmp_path: Path) -> None:
    log = ServerLog(tmp_path / "homeserver.log")
    assert log.tail() == ""
    log.path.write_text("".join(f"line {number}\n" for number in range(5000)))
    lines = log.tail().splitlines()
    assert lines[0].startswith("line ")
    assert lines[-1] == "line 4999"
    assert len(log.tail()) <= 6000
