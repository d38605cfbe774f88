"""A node as a test sees it, and what is left on it when a case has ended."""

import asyncio
import json
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from secrets import token_hex
from typing import TYPE_CHECKING

from pydantic import BaseModel

from trafficlight.processes import describe_exit, run_to_completion
from trafficlight.services.account import MARK, Account
from trafficlight.services.connections import (
    Command,
    Connection,
    NodeAddress,
    NodeError,
    number_after,
    script_of,
)
from trafficlight.services.streams import CHUNK, last_lines

if TYPE_CHECKING:
    from trafficlight.services.faults import Faults

logger = logging.getLogger(__name__)

# Bytes of a log that are collected: its end.
_LOG_LIMIT = 100 << 20
# The folder with a list of logs to collect for each service, in the case's folder on the node.
_LISTS = ".collect"
HEALING = ".heal"
"""The folder with a script for each fault that may have to be healed, in the case's folder on the node."""
# Seconds for ending, collecting and removing what a case has left on a node.
_CLEAN = 120.0
# Ends all processes with a mark and removes a folder, as soon as it reads a line or its input ends: with the
# case, with the lab, or with the connection. Between the two a line says whether the folder is there.
_GUARD = """trap '' HUP INT TERM PIPE
end_all() {{
 for i in 1 2 3 4 5 6 7 8 9 10; do
  found=$(grep -lsxzF {mark} /proc/[0-9]*/environ | cut -d/ -f3)
  [ -z "$found" ] && return
  kill -KILL $found 2>/dev/null; sleep 0.05
 done
 echo processes run on after SIGKILL: $found >&2; return 1
}}
# If the lab was killed, what it had been starting ends before that.
read -r _ || sleep 2
end_all; code=$?
healed=0
for one in {folder}/{healing}/*; do [ ! -e "$one" ] || sh "$one" < /dev/null > /dev/null || healed=1; done
if [ -e {folder} ]; then echo {token} 1; else echo {token} 0; fi
while read -r _; do :; done
# What could not be healed is tried again.
[ $healed = 0 ] && rm -rf {folder} || code=1
exit $code"""


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
    name = re.sub(r"[^\w.-]", "_", address.name)  # nodes may share a machine
    return str(PurePosixPath(address.folder) / f"trafficlight-{mark}-{name}")


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
    # A code of 1 is a file that something still writes to.
    size = f"-size -{_LOG_LIMIT // 1024 + 1}k"
    tar = f"(cd .gathered && find -L . -type f {size} -print0 | tar -chf - --null -T - || [ $? = 1 ])"
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


class Guard:
    """Removes what a case leaves on a node: processes, also those that left their group, and its folder.

    It is a shell on the node that waits for the end of its input. So it also does its work when this process
    has been killed, or the connection was lost.

    :param mark: unique to the case.
    """

    def __init__(self, address: NodeAddress, mark: str, connection: Connection) -> None:
        self.address, self.mark = address, mark
        self._connection, self._token = connection, token_hex(8)
        self._shell: Command | None = None

    async def start(self) -> None:
        """Start it, before anything else of the case is started there.

        :raises NodeError: the node does not answer.
        """
        folder, mark = script_of([case_folder(self.address, self.mark)]), script_of([f"{MARK}={self.mark}"])
        script = _GUARD.format(folder=folder, healing=HEALING, mark=mark, token=self._token)
        self._shell = await self._connection.open(script)

    async def end(self, target: Path | None = None) -> str:
        """Let it do its work now, or another one if it has been lost. Idempotent.

        :param target: the folder for logs that were not collected; None for none.
        :return: what went wrong, in one line; empty if nothing did.
        """
        try:
            async with asyncio.timeout(_CLEAN):
                if self._shell is not None:
                    try:
                        return await self._end(self._shell, target)
                    except NodeError as lost:
                        logger.warning("%s; what ran there has been ended", lost)
                await self.start()
                assert self._shell is not None
                return await self._end(self._shell, target)
        except NodeError as error:
            return str(error)
        except TimeoutError:
            return f"node {self.address.name}: cleaning up was not done within {_CLEAN:g} s"

    async def _end(self, shell: Command, target: Path | None) -> str:
        self._shell = None
        try:
            shell.stdin.write(b"\n")
            left = await number_after(self._token, shell.stdout)
            if left and target is not None:
                await self._collect_left(target)
            shell.stdin.write_eof()
            code = await shell.wait()
            error = (await shell.stderr.read(CHUNK)).decode(errors="replace")
        except OSError:
            left = None
        finally:
            await run_to_completion(shell.kill())
        if left is None:
            raise NodeError(f"node {self.address.name}: the connection was lost")
        problem = " ".join(last_lines(error).split("\n")) or describe_exit(code)
        return f"node {self.address.name}: cleaning up failed: {problem}" if code else ""

    async def _collect_left(self, target: Path) -> None:
        """Collect the logs of services whose test was killed; what goes wrong must not keep the node."""
        account = Account(self.address, case_folder(self.address, self.mark), "")
        try:
            for note in await _collected(account, self.address, target):
                logger.info("node %s: %s", self.address.name, note)
        except Exception as error:  # noqa: BLE001 - the lists are written by a process that was killed
            logger.warning("node %s: its logs cannot be collected: %s", self.address.name, error)
        finally:
            await account.close()


async def _collected(account: Account, address: NodeAddress, target: Path) -> list[str]:
    listed = await account.run(f"[ ! -d {_LISTS} ] || cat {_LISTS}/*", check=False)
    notes = []
    for content in listed.stdout.splitlines():
        entries = [LogEntry.model_validate(one) for one in json.loads(content)]
        notes += await collect(account, entries, target / entries[0].service / address.name, failed=True)
    return notes
