"""What a session runs: the request as JSON, and the selection of cases in it."""

import fnmatch
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from trafficlight.client_types import ClientType, client_types_of
from trafficlight.errors import NothingLeftError, UsageError
from trafficlight.server_types import ServerType, server_types_of
from trafficlight.suites.case_ids import base_id, moved_to
from trafficlight.suites.model import Case
from trafficlight.suites.query import WORDS, Lookup, joined, parse, planned_values
from trafficlight.suites.sharding import assign_shards, digest
from trafficlight.suites.yaml_files import BUILT_IN_FAILURES, FAILED_CASES, ExpectedFailure, read_yaml, texts
from trafficlight.text import count, first_problem

MOST_CASES = 250_000
"""The cases that a session can have, repetitions included."""

_OF_ONE_FILE = ("client_types", "server_types", "clients", "servers", "parameters", "pairwise")


class Selection(BaseModel):
    """Which cases to run. The fields apply in the order of this list, each like the option of that name.

    :raises UsageError: `keyword` or `shard` is malformed.
    :raises pydantic.ValidationError: another value is.
    """

    model_config = ConfigDict(extra="forbid")

    client_types: list[str] = Field(
        default_factory=list, description="The clients in roles for any Matrix client; default: `CLIENTS`."
    )
    server_types: list[str] = Field(
        default_factory=list, description="The homeservers in roles for any; default: `SERVERS`."
    )
    clients: list[str] = Field(default_factory=list, description="The only client types.")
    servers: list[str] = Field(default_factory=list, description="The only server types.")
    parameters: dict[str, Any] = Field(
        default_factory=dict, description="Parameter values that replace those of the tests."
    )
    pairwise: bool = Field(default=False, description="Cover pairs, not every combination.")
    only: list[str] | None = Field(
        default=None, description="The ids of the only cases; a file stands for all of its cases."
    )
    keyword: str = Field(
        default="",
        max_length=10_000,
        description="A query over what is known before a run: words of ids, roles, parameters.",
    )
    sample: int | None = Field(default=None, ge=1, description="Only this many cases, chosen by `seed`.")
    seed: int = Field(default=0, description="Chooses the sample.")
    repeat: int = Field(
        default=1, ge=1, description="How often each case runs; at most 250,000 cases in all."
    )
    shard: tuple[int, int] | None = Field(
        default=None, description="The part, from 1, and the number of parts."
    )
    durations: dict[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict,
        max_length=MOST_CASES,
        description="Seconds that cases took, by id: `shard` balances them.",
    )
    expected_failures: list[ExpectedFailure] = Field(
        default_factory=list, max_length=5_000, description="What is known to fail."
    )

    @field_validator("keyword")
    @classmethod
    def _is_expression(cls, keyword: str) -> str:
        if keyword:
            parse(keyword)
        return keyword

    @field_validator("client_types")
    @classmethod
    def _are_clients(cls, names: list[str]) -> list[str]:
        try:
            client_types_of(names)
        except ValueError as error:
            raise UsageError(f"--clients: {error}") from None
        return names

    @field_validator("server_types")
    @classmethod
    def _are_servers(cls, names: list[str]) -> list[str]:
        try:
            server_types_of(names)
        except ValueError as error:
            raise UsageError(f"--servers: {error}") from None
        return names

    @field_validator("shard")
    @classmethod
    def _is_shard(cls, shard: tuple[int, int] | None) -> tuple[int, int] | None:
        if shard is not None and not 1 <= shard[0] <= shard[1]:
            raise UsageError(f"there is no shard {shard[0]}/{shard[1]}: write I/N with I from 1 to N")
        return shard

    def with_types(self, clients: list[str], servers: list[str]) -> Self:
        """Return the selection with the types that fill roles for any, where it names none itself."""
        types = {"client_types": self.client_types or clients, "server_types": self.server_types or servers}
        return self.model_copy(update=types)

    def of_one_file(self) -> "Selection":
        """Return the part that applies to each test file by itself."""
        chosen = {name: getattr(self, name) for name in _OF_ONE_FILE}
        return Selection(**chosen)

    def among(self, cases: Sequence[Case], files: Iterable[str] = ()) -> list[Case]:
        """Return the selected cases of all shards, in their order; repetitions follow one another.

        :param files: the test files that were collected, as in case ids; some may have no cases.
        :raises UsageError: a case in `only` does not exist, or they are too many.
        """
        if self.only is not None:
            # What the other options leave out of each test file is not missing.
            narrowed = self.clients or self.servers or self.parameters or self.pairwise
            cases = _by_id(cases, self.only, files, all_exist=not narrowed)
        if self.keyword:
            cases = parse(self.keyword).select(cases, _lookup)
        if self.sample is not None:
            cases = _sample(cases, self.sample, self.seed)
        if len(cases) * self.repeat > MOST_CASES:
            asked = count(len(cases), "case")
            asked += f", {self.repeat:,} times each," if self.repeat > 1 else ""
            raise UsageError(f"{asked} are more than one session can have: {MOST_CASES:,}")
        if self.repeat > 1:
            cases = [
                case if number == 1 else replace(case, id=f"{case.id}#{number}")
                for case in cases
                for number in range(1, self.repeat + 1)
            ]
        return list(cases)

    def elsewhere(self, cases: Sequence[Case]) -> dict[str, int]:
        """Return the shard of each of the selected cases that is in another one, by its id."""
        if self.shard is None:
            return {}
        part, parts = self.shard
        shards = assign_shards(cases, parts, self.durations)
        return {case: shard for case, shard in shards.items() if shard != part}

    def expected(self, case_id: str) -> ExpectedFailure | None:
        """Return the first expected failure that matches a case; those of the built-in suites come last."""
        entries, plain = (*self.expected_failures, *BUILT_IN_FAILURES), base_id(case_id)
        return next((entry for entry in entries if entry.matches(plain)), None)

    @property
    def narrows(self) -> bool:
        """Whether it leaves out cases of the targets, in all shards together."""
        given = (self.keyword, self.clients, self.servers, self.parameters, self.pairwise, self.sample)
        return any(given) or self.only is not None

    def unused(self, case_ids: Iterable[str]) -> Iterator[str]:
        """Yield a line for each expected failure that matches none of these cases."""
        ids = list(map(base_id, case_ids))
        for entry in self.expected_failures:
            if not any(map(entry.matches, ids)):
                yield f"the expected failure {entry.case} matches no case{moved_to(entry.case, ids)}"


class SessionRequest(Selection):
    """What a session is to run. Every field has the meaning of the option of that name."""

    targets: list[str] = Field(
        default_factory=list,
        description="Files, directories, symbols; the configured tests where there are none.",
    )
    exit_first: bool = Field(default=False, description="End at the first failure or error.")
    max_failures: int | None = Field(
        default=None, ge=1, description="End at this many failures and errors together."
    )
    deflake: int = Field(default=0, ge=0, description="Retry a failed case up to this many times.")
    retry_errors: int = Field(
        default=0, ge=0, description="Retry a case up to this many times when it ends in error."
    )
    strict: bool = Field(
        default=False,
        description="Whether unsupported cases, unexpected successes and warnings are errors; see `STRICT`.",
    )
    job: str = Field(
        default="",
        max_length=2_000,
        pattern=r"^(https?://.*)?$",
        description="The link of the CI job that asks for it; default: `JOB_URL`.",
    )

    @classmethod
    def read(cls, body: dict[str, Any]) -> Self:
        """Return the request that a JSON object makes.

        :raises UsageError: it does not fit; the message names the field.
        """
        try:
            return cls.model_validate(body)
        except ValidationError as error:
            where, problem = first_problem(error)
            raise UsageError(f"{where or 'the request'}: {problem}") from None


def _lookup(case: Case) -> Lookup:
    def values(name: str) -> Sequence[str] | None:
        if name in (WORDS, "id"):
            return (case.id,)
        clients = {role: kind.type_name for role, kind in case.clients.items()}
        servers = {role: slot.type_name for slot in case.servers for role in slot.roles}
        if name in ("clients", "servers"):
            return joined((clients if name == "clients" else servers).values())
        every = planned_values(case.suite, case.file, clients, servers, case.parameters)
        return [value for key, value in every if key == name] or None

    return values


@dataclass(slots=True)
class TypeFilter:
    """Decides which client and server types are selected, and records which it met.

    :param clients: names or globs, in any case; empty for all.
    :param servers: the same for servers.
    :param met: the names of the types that it decided on, by side.
    :param used: the names or globs that matched a type, with their side.
    """

    clients: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    met: dict[str, set[str]] = field(default_factory=lambda: {"client": set(), "server": set()})
    used: set[tuple[str, str]] = field(default_factory=set)

    def __call__(self, kind: ClientType | ServerType) -> bool:
        """Return whether a type is selected, and note that it was met."""
        side, stated = ("client", self.clients) if isinstance(kind, ClientType) else ("server", self.servers)
        if not stated or (isinstance(kind, ClientType) and kind.type == "network-proxy"):
            return True
        self.met[side].add(kind.name())
        wire = kind.type if isinstance(kind, ClientType) else kind.recipe
        names = [name.casefold() for name in (kind.name(), type(kind).__name__, wire)]
        matching = [one for one in stated if any(fnmatch.fnmatchcase(name, one.casefold()) for name in names)]
        self.used.update((side, one) for one in matching)
        return bool(matching)

    def add(self, other: "TypeFilter") -> None:
        """Add what the filter of another test file met."""
        for side, names in other.met.items():
            self.met[side] |= names
        self.used |= other.used

    def check(self) -> None:
        """Check that every name or glob matched a type.

        :raises UsageError: one did not.
        """
        for side, stated in (("client", self.clients), ("server", self.servers)):
            for one in stated:
                if (side, one) not in self.used:
                    there = ", ".join(sorted(self.met[side])) or "none"
                    raise UsageError(f"--{side} {one}: no test has such a {side} type; there are {there}")


def read_failed(session: Path) -> list[str]:
    """Return the ids of the cases that failed in a session.

    :param session: the folder of a session's results, or the list in it.
    :raises UsageError: the session does not exist, or ended with an error although no case failed.
    :raises NothingLeftError: nothing failed.
    :raises ConfigError: its list is malformed.
    """
    path = session / FAILED_CASES if session.is_dir() else session
    if not path.is_file():
        raise UsageError(f"there is no {path}: name the folder of a session's results")
    if path.suffix not in (".yml", ".yaml"):
        raise UsageError(f"{path} is no list of cases: name the folder of a session's results")
    content = read_yaml(path)
    listed = content["failed"] if isinstance(content, dict) and "failed" in content else content
    failed = sorted(set(texts(listed, key="the list of cases", source=path)))
    if not failed:
        code = _exit_code(path.with_name("session.json"))
        if code:
            raise UsageError(f"no case of {session} failed, but its exit code is {code}: run all of it again")
        raise NothingLeftError(f"nothing to run: no case of {session} failed")
    return failed


def _exit_code(path: Path) -> object:
    """Return the exit code in the summary of a session; None if there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("exit_code")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def _by_id(
    cases: Sequence[Case], wanted: Iterable[str], files: Iterable[str], *, all_exist: bool
) -> list[Case]:
    ids = {base_id(one) for one in wanted}
    found = [case for case in cases if case.id in ids or case.id.partition("::")[0] in ids]
    missing = sorted(ids.difference((case.id for case in found), files))
    if missing and all_exist:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        if any(case.suite == missing[0].partition("[")[0] for case in cases):
            advice = "its test has others: it was changed, or its values differ from import to import"
        else:
            advice = f"name the PATH that the session ran{moved_to(missing[0], (case.id for case in cases))}"
        raise UsageError(f"there is no case {missing[0]}{more}: {advice}")
    return found


def _sample(cases: Sequence[Case], size: int, seed: int) -> list[Case]:
    """Choose by the digest of seed and id: independent of the order of the cases."""
    runnable = [case for case in cases if case.skip is None]
    chosen = {case.id for case in sorted(runnable, key=lambda case: digest(seed, case.id))[:size]}
    return [case for case in runnable if case.id in chosen]
