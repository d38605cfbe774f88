"""A session to tell about: a journal on a clock that is turned by hand."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from tests.hand_clock import HandClock
from trafficlight.results.events import Event, EventKind
from trafficlight.results.folder import ResultsFolder
from trafficlight.results.journal import Journal
from trafficlight.results.record import SessionRecord

SUITE = "chat/send_messages_test.py::SendMessages"


class Lab:
    """Appends to a journal what a runner would, and keeps what was appended."""

    def __init__(self, folder: ResultsFolder) -> None:
        self.folder = folder
        self.clock = HandClock()
        self.journal = Journal(self.clock)
        self.record = SessionRecord()
        self.events: list[Event] = []
        self.journal.subscribe(self.events.append)
        self.journal.subscribe(self.record.apply)

    def read_along(self, reader: Callable[[Event], None]) -> None:
        self.journal.subscribe(reader)

    def append(self, kind: EventKind, **rest: Any) -> Event:
        return self.journal.append(kind, session=self.folder.id, **rest)

    def start(self, **data: Any) -> None:
        self.append(
            EventKind.SESSION_STARTED,
            **{
                "versions": {"trafficlight": "0.1.0", "python": "3.11.7"},
                "configuration": {"RESULTS": "results"},
                "command": "trafficlight run chat",
                "host": "lab-1",
                "user": "kim",
                "seed": 7,
                "cases": 0,
                **data,
            },
        )

    def plan(
        self,
        clients: dict[str, str] | None = None,
        servers: dict[str, str] | None = None,
        *,
        suite: str = SUITE,
        parameters: dict[str, Any] | None = None,
        case: str | None = None,
        **data: Any,
    ) -> str:
        clients = {"alice": "Nio", "bob": "Nio"} if clients is None else clients
        servers = {"server": "SynapseStable"} if servers is None else servers
        cell = ",".join(
            f"{key}={value}" for key, value in {**clients, **servers, **(parameters or {})}.items()
        )
        case_id = case if case is not None else f"{suite}[{cell}]" if cell else suite
        file, _, test = suite.partition("::")
        class_name, _, method = test.partition(".")
        self.append(
            EventKind.CASE_PLANNED,
            case=case_id,
            **{
                "suite": suite,
                "file": file,
                "line": 12,
                "class_name": class_name,
                "method": method or "run",
                "clients": clients,
                "servers": servers,
                "parameters": parameters or {},
                "skip": None,
                **data,
            },
        )
        return case_id

    def prepare(self, case: str, attempt: int = 1) -> None:
        self.append(EventKind.CASE_STATE, case=case, attempt=attempt, state="preparing")
        planned = self.record.cases[case]
        for role, name in planned.clients.items():
            self.append(
                EventKind.ADAPTER_LEASED,
                case=case,
                attempt=attempt,
                role=role,
                adapter=f"uuid-{role}-{attempt}",
                client_type=name,
                registration={"type": name.lower(), "version": "0.26.0"},
            )
        self.clock.elapsed += 1.4
        for number, (role, name) in enumerate(planned.servers.items(), 1):
            self.append(
                EventKind.SERVER_READY,
                case=case,
                attempt=attempt,
                role=role,
                server_name=f"hs{number}",
                cs_api="http://localhost:8008",
                version="1.142.0",
                type=name,
                seconds=1.4,
            )
        self.append(EventKind.CASE_STATE, case=case, attempt=attempt, state="running")

    def act(
        self,
        case: str,
        role: str,
        action: str,
        seconds: float = 0.2,
        *,
        attempt: int = 1,
        data: dict[str, Any] | None = None,
        fails: dict[str, str] | None = None,
    ) -> None:
        name = f"{role}-{self.clock.elapsed}"
        where = {"case": case, "attempt": attempt, "role": role, "adapter": f"uuid-{role}-{attempt}"}
        self.append(EventKind.ACTION_SENT, **where, id=name, action=action, data=data or {})
        self.append(EventKind.ACTION_DELIVERED, **where, id=name, action=action)
        self.clock.elapsed += seconds
        if fails is None:
            self.append(
                EventKind.ACTION_ANSWERED, **where, id=name, action=action, response={}, seconds=seconds
            )
        else:
            self.append(EventKind.ACTION_FAILED, **where, id=name, action=action, seconds=seconds, **fails)

    def end_case(
        self, case: str, state: str, message: str = "", *, attempt: int | None = 1, **data: Any
    ) -> None:
        self.append(EventKind.CASE_ENDED, case=case, attempt=attempt, state=state, message=message, **data)

    def run(
        self, case: str, state: str = "success", message: str = "", *, attempt: int = 1, **data: Any
    ) -> None:
        """Take a case from its start to its end."""
        self.prepare(case, attempt)
        self.clock.elapsed += 1
        self.end_case(case, state, message, attempt=attempt, **{"seconds": 2.4, **data})

    def end(self, **data: Any) -> None:
        self.append(EventKind.SESSION_ENDED, **{"exit_code": 0, "interrupted": False, **data})


@pytest.fixture
def folder(tmp_path: Path) -> ResultsFolder:
    return ResultsFolder.create(tmp_path / "results", date(2026, 11, 21))


@pytest.fixture
def lab(folder: ResultsFolder) -> Lab:
    return Lab(folder)


@pytest.fixture
def lab_of() -> Callable[[ResultsFolder], Lab]:
    """For tests that need several labs."""
    return Lab
