"""The CPU time that an event costs the coordinator's loop: the journal, and each of its readers."""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tables import show

from trafficlight.clock import SystemClock
from trafficlight.results.events import (
    ActionAnswered,
    ActionDelivered,
    ActionSent,
    AdapterLeased,
    AdapterReleased,
    CaseEnded,
    CasePlanned,
    CaseState,
    Event,
    State,
    event_line,
)
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.journal import Journal
from trafficlight.results.metrics import Metrics
from trafficlight.results.record import SessionRecord
from trafficlight.results.writer import ResultsWriter

SESSION = "2026-11-21--001"


def story(append: Callable[..., object], cases: int) -> int:
    """Append the events of cases with one action each; return their number."""
    told = 0
    for number in range(cases):
        case = f"a_test.py::NoOp[alice=Nio,n={number}]"
        about: dict[str, Any] = {"session": SESSION, "case": case}
        append(CasePlanned(**about, suite="a_test.py::NoOp", clients={"alice": "Nio"}, skip=None))
        about |= {"attempt": 1}
        append(AdapterLeased(**about, role="alice", adapter="a", registration={"type": "nio"}))
        append(CaseState(**about, state=State.PREPARING))
        append(CaseState(**about, state=State.RUNNING))
        action: dict[str, Any] = {"id": "0123456789abcdef", "action": "dance"}
        action |= {"role": "alice", "adapter": "a"}
        append(ActionSent(**about, **action, data={"n": number}))
        append(ActionDelivered(**about, **action))
        append(ActionAnswered(**about, **action, response={"response": "done"}, seconds=0.01))
        append(AdapterReleased(**about, role="alice", adapter="a", reason="the case ended"))
        append(CaseEnded(**about, state=State.SUCCESS, message="", phase="run", seconds=0.1, traceback=""))
        told += 9
    return told


def bare(folder: Path, cases: int) -> float:
    """Return the microseconds that an event and its line of JSON take, written unbuffered."""
    with (folder / "bare.jsonl").open("ab", buffering=0) as file:

        def append(event: Event) -> None:
            file.write(event_line(event))

        began = time.thread_time()
        events = story(append, cases)
        return 1e6 * (time.thread_time() - began) / events


def measured(folder: Path, cases: int, readers: frozenset[str]) -> float:
    """Return the microseconds that each event costs the thread of the loop."""
    folder.mkdir()
    with ExitStack() as stack:
        journal = Journal(SystemClock())
        if "folder" in readers:
            (folder / SESSION).mkdir()
            writer = ResultsWriter(ResultsFolder(folder / SESSION), SessionRecord())
            stack.callback(writer.close)
            journal.subscribe(writer, session=SESSION)
        if "metrics" in readers:
            Metrics(journal)
        began = time.thread_time()
        events = story(journal.append, cases)
        return 1e6 * (time.thread_time() - began) / events


def main() -> None:
    """Measure a journal with more and more readers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="number of cases, with 9 events each")
    cases = parser.parse_args().cases
    rows: list[tuple[object, ...]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        least = min(bare(folder, cases) for _ in range(3))
        rows.append(("an event as a line of JSON in a file", least, 1.0))
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
