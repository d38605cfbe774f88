"""Which of the cases that there are a session runs."""

import fnmatch
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from trafficlight.client_types import ClientType
from trafficlight.errors import UsageError
from trafficlight.server_types import ServerType
from trafficlight.suites.case_ids import base_id
from trafficlight.suites.expected_failures import ExpectedFailures
from trafficlight.suites.keywords import read_expression
from trafficlight.suites.model import Case
from trafficlight.suites.yaml_files import read_yaml, texts


@dataclass(frozen=True, slots=True)
class Selection:
    """What was asked for, besides paths. They apply in the order of this list.

    :param clients: the only client types there are to be, by name or glob; network proxies are not meant.
    :param servers: the only server types there are to be.
    :param parameters: values that take the place of the ones that tests state; a test that does not take them
        is out.
    :param pairwise: whether every pair of types and values is enough.
    :param keyword: an expression over case ids, with and, or, not.
    :param only: the ids of the only cases there are to be, for instance the ones that failed before.
    :param sample: how many cases at most, chosen by `seed`.
    :param seed: the same seed chooses the same sample.
    :param repeat: how often each case runs.
    :param shard: which of how many parts, from 1.
    :param expected_failures: what is known to fail.
    :raises UsageError: a value makes no sense.
    """

    clients: tuple[str, ...] = ()
    servers: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    pairwise: bool = False
    keyword: str = ""
    only: frozenset[str] | None = None
    sample: int | None = None
    seed: int = 0
    repeat: int = 1
    shard: tuple[int, int] | None = None
    expected_failures: ExpectedFailures = field(default_factory=ExpectedFailures)

    def __post_init__(self) -> None:
        if self.sample is not None and self.sample < 1:
            raise UsageError(f"a sample of {self.sample} cases is none")
        if self.repeat < 1:
            raise UsageError(f"cases cannot run {self.repeat} times")
        if self.shard is not None and not 1 <= self.shard[0] <= self.shard[1]:
            raise UsageError(
                f"there is no shard {self.shard[0]}/{self.shard[1]}: write I/N with I from 1 to N"
            )
        if self.keyword:
            read_expression(self.keyword)

    def among(self, cases: Sequence[Case]) -> list[Case]:
        """Return the cases that are asked for, in their order; repetitions follow one another.

        :raises UsageError: a case that is asked for by its id is not there.
        """
        if self.keyword:
            means = read_expression(self.keyword)
            cases = [case for case in cases if means(case.id)]
        if self.only is not None:
            cases = _by_id(cases, self.only)
        if self.sample is not None:
            cases = _sample(cases, self.sample, self.seed)
        if self.repeat > 1:
            cases = [
                case if number == 1 else replace(case, id=f"{case.id}#{number}")
                for case in cases
                for number in range(1, self.repeat + 1)
            ]
        return list(cases) if self.shard is None else _shard(cases, *self.shard)


class TypeFilter:
    """Decides which client and server types there are to be, and remembers which it met.

    :param clients: names or globs, in either case; empty for all.
    :param servers: the same for servers.
    """

    def __init__(self, clients: Iterable[str] = (), servers: Iterable[str] = ()) -> None:
        self._asked = {"client": tuple(clients), "server": tuple(servers)}
        self._met: dict[str, set[str]] = {"client": set(), "server": set()}
        self._used: set[tuple[str, str]] = set()

    def __call__(self, kind: ClientType | ServerType) -> bool:
        side = "client" if isinstance(kind, ClientType) else "server"
        asked = self._asked[side]
        if not asked or (isinstance(kind, ClientType) and kind.type == "network-proxy"):
            return True
        self._met[side].add(kind.name())
        wire = kind.type if isinstance(kind, ClientType) else kind.recipe
        names = [name.casefold() for name in (kind.name(), type(kind).__name__, wire)]
        matching = [one for one in asked if any(fnmatch.fnmatchcase(name, one.casefold()) for name in names)]
        self._used.update((side, one) for one in matching)
        return bool(matching)

    def add(self, other: "TypeFilter") -> None:
        """Remember what another one met, which decided about other test files."""
        for side, names in other._met.items():
            self._met[side] |= names
        self._used |= other._used

    def check(self) -> None:
        """Complain about a type that no test can use.

        :raises UsageError: there is one.
        """
        for side, asked in self._asked.items():
            for one in asked:
                if (side, one) not in self._used:
                    there = ", ".join(sorted(self._met[side])) or "none"
                    raise UsageError(f"--{side} {one}: no test has such a {side} type; there are {there}")


def read_failed(session: Path) -> frozenset[str]:
    """Return the ids of the cases that are to run again.

    :param session: the folder of a session's results, or the list in it.
    :raises UsageError: there is no such session.
    :raises ConfigError: its list is malformed.
    """
    path = session / "rerun-failed.yml" if session.is_dir() else session
    if not path.is_file():
        raise UsageError(f"there is no {path}: name the folder of a session's results")
    content = read_yaml(path)
    listed = content["failed"] if isinstance(content, dict) and "failed" in content else content
    return frozenset(texts(listed, key="the list of cases", source=path))


def _by_id(cases: Sequence[Case], wanted: frozenset[str]) -> list[Case]:
    ids = {base_id(one) for one in wanted}
    found = [case for case in cases if case.id in ids]
    missing = sorted(ids - {case.id for case in found})
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise UsageError(f"there is no case {missing[0]}{more}: name the PATH that the session ran")
    return found


def _digest(*parts: object) -> bytes:
    return hashlib.sha256("\0".join(map(str, parts)).encode("utf-8", "surrogateescape")).digest()


def _sample(cases: Sequence[Case], size: int, seed: int) -> list[Case]:
    """Choose by the digest of seed and id, so that a case's luck does not depend on the others' order."""
    runnable = [case for case in cases if case.skip is None]
    chosen = {case.id for case in sorted(runnable, key=lambda case: _digest(seed, case.id))[:size]}
    return [case for case in runnable if case.id in chosen]


def _shard(cases: Sequence[Case], part: int, parts: int) -> list[Case]:
    """Deal the cases out suite by suite, each shuffled by the digests of its ids; what is skipped comes last.

    So all parts are of one size, of every suite too, and no part gets always the same type of a role.
    """
    dealt = sorted(cases, key=lambda case: (case.skip is not None, case.suite, _digest(case.id)))
    mine = {case.id for case in dealt[part - 1 :: parts]}
    return [case for case in cases if case.id in mine]
