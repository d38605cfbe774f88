"""What an event costs the coordinator's loop: its place in the journal, and each of its readers."""

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from tables import show

from trafficlight.clock import SystemClock
from trafficlight.results.events import EventKind
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.journal import Journal
from trafficlight.results.metrics import Metrics
from trafficlight.results.record import SessionRecord
from trafficlight.results.writer import ResultsWriter

SESSION = "2026-11-21--001"


def story(append: Callable[..., object], cases: int) -> int:
    """Tell of cases of one action; return how many events that takes."""
    told = 0
    for number in range(cases):
        case = f"a_test.py::NoOp[alice=Nio,n={number}]"
        about = {"session": SESSION, "case": case}
        append(EventKind.CASE_PLANNED, **about, suite="a_test.py::NoOp", clients={"alice": "Nio"}, skip=None)
        about |= {"attempt": 1}  # type: ignore[dict-item]
        append(EventKind.ADAPTER_LEASED, **about, role="alice", adapter="a", registration={"type": "nio"})
        append(EventKind.CASE_STATE, **about, state="preparing")
        append(EventKind.CASE_STATE, **about, state="running")
        action = {"id": "0123456789abcdef", "action": "dance", "role": "alice", "adapter": "a"}
        append(EventKind.ACTION_SENT, **about, **action, data={"n": number})
        append(EventKind.ACTION_DELIVERED, **about, **action)
        append(EventKind.ACTION_ANSWERED, **about, **action, response={"response": "done"}, seconds=0.01)
        append(EventKind.ADAPTER_RELEASED, **about, role="alice", adapter="a", reason="the case ended")
        append(
            EventKind.CASE_ENDED, **about, state="success", message="", phase="run", seconds=0.1, traceback=""
        )
        told += 9
    return told


def bare(folder: Path, cases: int) -> float:
    """Return the microseconds that one line of JSON to an unbuffered file takes: the least there can be."""
    with (folder / "bare.jsonl").open("ab", buffering=0) as file:

        def append(kind: EventKind, **content: object) -> None:
            file.write(json.dumps({"kind": kind.value, **content}).encode() + b"\n")

        began = time.perf_counter()
        events = story(append, cases)
        return 1e6 * (time.perf_counter() - began) / events


def measured(folder: Path, cases: int, readers: frozenset[str]) -> float:
    """Return microseconds of the loop for each event."""
    folder.mkdir()
    with ExitStack() as stack:
        journal = Journal(SystemClock())
        if "folder" in readers:
            (folder / SESSION).mkdir()
            writer = ResultsWriter(ResultsFolder(folder / SESSION), SessionRecord())
            stack.callback(writer.close)
            journal.subscribe(writer)
        if "metrics" in readers:
            journal.subscribe(Metrics())
        began = time.perf_counter()
        events = story(journal.append, cases)
        return 1e6 * (time.perf_counter() - began) / events


def main() -> None:
    """Measure a journal with more and more readers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="cases told of, with 9 events each")
    cases = parser.parse_args().cases
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        least = min(bare(folder, cases) for _ in range(3))
        rows.append(("a line of JSON to a file, without all of it", least, 1.0))
        readers: set[str] = set()
        for title, reader in (
            ("the journal alone", ""),
            ("and the metrics", "metrics"),
            ("and the session's folder, with junit.xml", "folder"),
        ):
            readers.add(reader)
            runs = [measured(folder / f"{len(readers)}-{run}", cases, frozenset(readers)) for run in range(3)]
            rows.append((title, min(runs), min(runs) / least))
    show(f"{9 * cases:,} events of {cases:,} cases", ("", "µs an event", "ratio"), rows)


if __name__ == "__main__":
    main()
