"""A node as a test sees it, and what is left on it when a case has ended."""

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from pydantic import BaseModel

from trafficlight.services.account import MARK, Account
from trafficlight.services.connections import NodeAddress, NodeError, script_of
from trafficlight.services.streams import CommandError

if TYPE_CHECKING:
    from trafficlight.services.faults import Faults

logger = logging.getLogger(__name__)

# Bytes of a log that are collected: its end.
_LOG_LIMIT = 100 << 20
# The folder with a list of logs to collect for each service, in the case's folder on the node.
_LISTS = ".collect"
HEALING = ".heal"
"""The folder with a script for each fault that may have to be healed, in the case's folder on the node."""


class LogEntry(BaseModel):
    """A log that is collected from a node.

    :ivar service: the id of its service.
    :ivar name: what it is called in the results.
    :ivar path: where it is on the node.
    :ivar collect: ``always`` or ``on_failure``.
    """

    service: str
    name: str
    path: str
    collect: str


@dataclass(slots=True, eq=False)
class Node:
    """A machine, container or folder that a service runs on.

    :ivar name: unique in the cluster.
    :ivar host: the address under which other nodes, clients and homeservers reach it.
    :ivar account: runs commands there.
    :ivar labels: what the cluster says about it.
    :ivar ports: free ports, if it shares its address with other nodes.
    """

    address: NodeAddress
    account: Account = field(repr=False)
    faults: "Faults" = field(repr=False)

    @property
    def name(self) -> str:
        """Its name in the cluster."""
        return self.address.name

    @property
    def host(self) -> str:
        """The address under which others reach it."""
        return self.address.host

    @property
    def labels(self) -> frozenset[str]:
        """What the cluster says about it."""
        return self.address.labels

    @property
    def ports(self) -> Sequence[int]:
        """Free ports, if it shares its address with other nodes."""
        return self.address.ports


def case_folder(address: NodeAddress, mark: str) -> str:
    """Return the folder of a case on a node."""
    return str(PurePosixPath(address.folder) / f"trafficlight-{mark}")


async def note_logs(account: Account, service: str, entries: Iterable[LogEntry]) -> None:
    """Write down on the node which logs of a service to collect, in case this process is killed."""
    content = json.dumps([one.model_dump() for one in entries]) + "\n"
    await account.create_file(f"{_LISTS}/{service}", content)


async def collect(account: Account, entries: Sequence[LogEntry], target: Path, *, failed: bool) -> list[str]:
    """Copy logs of a service on one node, as one stream.

    :param target: the folder for them, which is made if need be.
    :param failed: whether those that are collected after a failure are wanted.
    :return: what could not be collected, one line each.
    """
    wanted = [one for one in entries if one.collect == "always" or (failed and one.collect == "on_failure")]
    done = script_of(["rm", "-rf", ".gathered", *(f"{_LISTS}/{one.service}" for one in entries[:1])])
    if not wanted:
        await account.run(done)
        return []
    script = "\n".join(_gathered(one, number) for number, one in enumerate(wanted))
    looked = await account.run(f"rm -rf .gathered; mkdir .gathered\n{script}", timeout=120)
    size = f"-size -{_LOG_LIMIT // 1024 + 1}k"
    tar = f"(cd .gathered && find -L . -type f {size} -print0 | tar -chf - --null -T -)"
    await account.receive(f"{tar} && {done}", target)
    notes = []
    for line in looked.stdout.splitlines():
        number, _, problem = line.partition(" ")
        if number.isdigit() and int(number) < len(wanted):  # a file's name may have several lines
            notes.append(f"{wanted[int(number)].name}: {problem}")
    return notes


def _gathered(entry: LogEntry, number: int) -> str:
    """Return a script that links a log into a folder, or prints why not."""
    path, name = script_of([entry.path]), script_of([f".gathered/{entry.name}"])
    parent = script_of([str(PurePosixPath(f".gathered/{entry.name}").parent)])
    return (
        f"p={path}; n={name}; mkdir -p {parent}\n"
        'case "$p" in /*) ;; *) p="$PWD/$p";; esac\n'
        f'if [ -d "$p" ]; then ln -s "$p" "$n"; find -L "$p" -type f -size +{_LOG_LIMIT // 1024}k'
        f' -exec echo "{number} lacks, because it is too large," {{}} \\;\n'
        f'elif [ -f "$p" ]; then s=$(wc -c < "$p"); if [ "$s" -gt {_LOG_LIMIT} ]; then'
        f' tail -c {_LOG_LIMIT} "$p" > "$n"; echo "{number} the last {_LOG_LIMIT >> 20} MiB of $s bytes";'
        ' else ln -s "$p" "$n"; fi\n'
        f'elif [ -e "$p" ]; then echo "{number} is not a regular file";'
        f' elif [ -L "$p" ]; then echo "{number} is a link to nothing";'
        f' else echo "{number} does not exist"; fi'
    )


async def clean(address: NodeAddress, mark: str, target: Path | None = None) -> list[str]:
    """Remove what a case has left on a node: processes, also those that left their group, faults, its folder.

    :param mark: unique to the case.
    :param target: the folder for logs that were not collected; None for none.
    :return: what went wrong, one line each.
    """
    folder, notes = case_folder(address, mark), []
    account = Account(address, folder, "")
    where, text = script_of([folder]), script_of([f"{MARK}={mark}"])
    kill = (
        "for i in 1 2 3 4 5 6 7 8 9 10; do\n"
        f" found=$(grep -lsxzF {text} /proc/[0-9]*/environ | cut -d/ -f3)\n"
        ' [ -z "$found" ] && exit 0\n kill -KILL $found 2>/dev/null; sleep 0.05\ndone\nexit 1'
    )
    heal = f'for one in {where}/{HEALING}/*; do [ ! -e "$one" ] || sh "$one" || exit 1; done'
    try:
        if (await account.run(f"({kill}) || exit 1; {heal}; [ ! -e {where} ] || echo folder")).stdout:
            if target is not None:
                await _collect_left(account, address, target)
            await account.run(f"cd / && rm -rf {where}")
    except (CommandError, NodeError) as error:
        notes.append(str(error).splitlines()[0])
    finally:
        await account.close()
    return notes


async def _collect_left(account: Account, address: NodeAddress, target: Path) -> None:
    """Collect the logs of services whose test was killed; what goes wrong must not keep the node."""
    try:
        for note in await _collected(account, address, target):
            logger.info("node %s: %s", address.name, note)
    except Exception as error:  # noqa: BLE001 - the lists are written by a process that was killed
        logger.warning("node %s: its logs cannot be collected: %s", address.name, error)


async def _collected(account: Account, address: NodeAddress, target: Path) -> list[str]:
    listed = await account.run(f"[ ! -d {_LISTS} ] || cat {_LISTS}/*", check=False)
    notes = []
    for content in listed.stdout.splitlines():
        entries = [LogEntry.model_validate(one) for one in json.loads(content)]
        notes += await collect(account, entries, target / entries[0].service / address.name, failed=True)
    return notes
