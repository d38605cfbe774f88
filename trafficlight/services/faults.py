"""Faults on nodes: each is in effect inside its block, and healed at its end and again when the case ends."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING, Any, TypeAlias

from trafficlight.errors import LabError, UnsupportedError
from trafficlight.processes import run_to_completion
from trafficlight.services.connections import script_of
from trafficlight.services.node import HEALING, Node

if TYPE_CHECKING:
    from trafficlight.services.service import Service

Target: TypeAlias = "Service | Node | Iterable[Node]"
"""What a fault concerns: the nodes of a service, a node, or several."""
Fault: TypeAlias = AbstractAsyncContextManager[None]
_OnNode: TypeAlias = Callable[[Node], Awaitable[object]]

# The exit code of a script that finds that a node cannot do what is asked, and says why.
_UNSUPPORTED = 77
_SECONDS = 20.0
# The file with the offset of the clock.
_OFFSET = ".faketime"
_BEGIN = f'unsupported() {{ echo "$1" >&2; exit {_UNSUPPORTED}; }}\n'


@dataclass(slots=True, eq=False)
class _Active:
    what: str
    kind: str
    nodes: Sequence[Node]
    heal: _OnNode
    began: bool = False


class Faults:
    """The faults on the nodes of a case.

    :param on_change: called with what a fault is, and whether it is in effect from now on.
    """

    def __init__(self, on_change: Callable[[str, bool], None]) -> None:
        self._on_change = on_change
        self._active: list[_Active] = []

    @asynccontextmanager
    async def cause(
        self, what: str, kind: str, nodes: Sequence[Node], begin: _OnNode, heal: _OnNode
    ) -> AsyncIterator[None]:
        """Cause a fault on nodes, and heal it at the end of the block.

        :param kind: of which a node can have one at a time; empty for any number.
        """
        for other in self._active:
            if kind and other.kind == kind and (shared := set(nodes) & set(other.nodes)):
                raise LabError(f"{what}: {shared.pop().name} has such a fault already: {other.what}")
        fault = _Active(what, kind, nodes, heal)
        self._active.append(fault)
        try:
            await _all(map(begin, nodes))
            fault.began = True
            self._on_change(what, True)
            yield
        except BaseException as error:
            try:
                await run_to_completion(self._heal(fault))
            except Exception as problem:  # noqa: BLE001 - the first error counts
                error.add_note(f"then {what} could not be healed: {problem}")
            raise
        await run_to_completion(self._heal(fault))

    async def _heal(self, fault: _Active) -> None:
        if fault not in self._active:  # the case has ended before the block
            return
        self._active.remove(fault)
        try:
            await _all(map(fault.heal, fault.nodes))
        finally:
            if fault.began:
                self._on_change(fault.what, False)

    async def close(self) -> list[Exception]:
        """Heal what is left; return what went wrong."""
        errors: list[Exception] = []
        for fault in reversed(list(self._active)):
            try:
                await self._heal(fault)
            except Exception as error:  # noqa: BLE001 - the others are healed, too
                errors.append(error)
        return errors


async def _all(works: Iterable[Awaitable[object]]) -> None:
    """Await all at the same time; raise the first error when all have ended."""
    for result in await asyncio.gather(*works, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _named(target: Target) -> tuple[str, list[Node]]:
    """Return a name for a target, and its nodes."""
    if isinstance(target, Node):
        return target.name, [target]
    given: Any = target  # a service cannot be asked for by its class: its module needs this one
    nodes: list[Node] = list(getattr(given, "nodes", given))
    name = str(getattr(given, "id", "") or ", ".join(node.name for node in nodes))
    if not nodes:
        raise LabError(f"a fault needs a node: {name or 'an empty list'} has none")
    return name, nodes


# Processes


async def kill(target: Target) -> None:
    """Kill (SIGKILL) what runs in the background on nodes; returns when it has ended.

    :raises CommandError: a process runs on.
    """
    name, nodes = _named(target)

    async def on_node(node: Node) -> None:
        await _all(map(node.account.kill, node.account.running))

    async def nothing(_: Node) -> None:
        """It cannot be healed."""

    async with nodes[0].faults.cause(f"kill {name}", "", nodes, on_node, nothing):
        pass


def pause(target: Target) -> Fault:
    """Pause (SIGSTOP) what runs in the background on nodes; resume it (SIGCONT) at the end of the block.

    :raises LabError: nothing runs there, or it is paused already.
    """
    name, nodes = _named(target)
    if not any(node.account.running for node in nodes):
        raise LabError(f"pause {name}: no process runs in the background there")

    async def stop(node: Node) -> None:
        await _all(node.account.signal(one, "STOP") for one in node.account.running)

    async def resume(node: Node) -> None:
        await _all(node.account.signal(one, "CONT") for one in node.account.running)

    return nodes[0].faults.cause(f"pause {name}", "pause", nodes, stop, resume)


def clock_offset(target: Target, seconds: float) -> Fault:
    """Set the clock of what nodes start inside the block; at its end, all have the real time again.

    It is done with libfaketime: the program must be linked dynamically, and the monotonic clock stays as it
    is. What runs already keeps its clock.

    :param seconds: how much it is ahead; negative for behind.
    :raises UnsupportedError: a node lacks ``faketime``.
    """
    name, nodes = _named(target)
    what = f"clock of {name} {abs(seconds):g} s {'behind' if seconds < 0 else 'ahead'}"
    before: dict[Node, Mapping[str, str]] = {}
    # Removes the shared memory of killed processes.
    heal = (
        "for one in /dev/shm/faketime_shm_*; do\n"
        ' pid=${one##*_}\n [ -e "$one" ] || continue\n'
        ' grep -qs "faketime_shm_$pid" /proc/[0-9]*/maps ||'
        ' rm -f "$one" "/dev/shm/sem.faketime_sem_$pid"\ndone 2>/dev/null; true'
    )

    async def begin(node: Node) -> None:
        script = (
            "command -v faketime > /dev/null || unsupported 'has no faketime: apt-get install faketime'\n"
        )
        script += f"{_note('clock', heal)} && {_set_offset(seconds)} && faketime -m -f +0 printenv LD_PRELOAD"
        library = (await _run(node, what, script)).strip()
        before[node] = node.account.env
        node.account.env = {
            **before[node],
            "LD_PRELOAD": library,
            "FAKETIME_TIMESTAMP_FILE": node.account.path(_OFFSET),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",  # of older versions
        }

    async def end(node: Node) -> None:
        node.account.env = before.pop(node, node.account.env)
        await node.account.run(_set_offset(0), timeout=_SECONDS)

    return nodes[0].faults.cause(what, "clock", nodes, begin, end)


def _set_offset(seconds: float) -> str:
    # Moved, as processes read it all the time.
    return f"echo {seconds:+f} > {_OFFSET}.new && mv {_OFFSET}.new {_OFFSET}"


# Network


def partition(a: Target, b: Target) -> Fault:
    """Drop every packet between the nodes of `a` and those of `b`, in both directions.

    The rules are on the nodes of `a`, and drop by the addresses that the cluster has for those of `b`. The
    lab's own SSH connections pass.

    :raises UnsupportedError: two nodes share an address, or a node of `a` lacks ``iptables`` or may not use
        it.
    """
    (name, nodes), (other, others) = _named(a), _named(b)
    what = f"partition {name} from {other}"
    if shared := {one.host for one in nodes} & {one.host for one in others}:
        both = ", ".join(one.name for one in [*nodes, *others] if one.host in shared)
        raise UnsupportedError(f"{what}: {both} share the address {shared.pop()}: {_OWN_ADDRESS}")
    chain = f"TRAFFICLIGHT-{token_hex(4)}"
    apply = _PARTITION.format(chain=chain, hosts=script_of([one.host for one in others]), why=_OWN_ADDRESS)
    return _rules(what, "", nodes, chain, lambda _: apply, _UNITE.format(chain=chain))


def degrade(target: Target, *, delay: float = 0.0, jitter: float = 0.0, loss: float = 0.0) -> Fault:
    """Delay or lose what nodes send, on the interface that has their address.

    The lab's own SSH connections are not concerned.

    :param delay: seconds; for a round trip it counts once for each node concerned.
    :param jitter: seconds by which the delay varies, up and down.
    :param loss: the part of the packets that is lost, from 0 to 1.
    :raises UnsupportedError: a node shares its interface, has no ``tc``, may not use it, or has no netem.
    """
    if not (delay >= jitter >= 0 and 0 <= loss <= 1 and delay + loss > 0):
        raise ValueError(f"degrade needs delay >= jitter >= 0 or 0 < loss <= 1: {delay=}, {jitter=}, {loss=}")
    name, nodes = _named(target)
    if local := [one.name for one in nodes if one.address.ssh is None and not one.address.prefix]:
        raise UnsupportedError(f"degrade {name}: {', '.join(local)} is this machine: {_OWN_ADDRESS}")
    parts = [f"delay {delay:g} s" + (f" +- {jitter:g} s" if jitter else "")] if delay else []
    parts += [f"loss {loss * 100:g} %"] if loss else []
    netem = f"delay {delay * 1e6:.0f}us {jitter * 1e6:.0f}us" if delay else ""
    netem += f" loss {loss * 100:g}%" if loss else ""

    def apply(node: Node) -> str:
        return _DEGRADE.format(host=script_of([node.host]), netem=netem, why=_OWN_ADDRESS)

    return _rules(f"degrade {name}: {', '.join(parts)}", "degrade", nodes, token_hex(4), apply, _RESTORE)


def _rules(
    what: str, kind: str, nodes: Sequence[Node], token: str, apply: Callable[[Node], str], heal: str
) -> Fault:
    """Return a fault that root causes with one script, and heals with another."""

    async def begin(node: Node) -> None:
        noted = _note(token, _as_root(heal))
        await _run(node, what, f"{noted} && {{ {_as_root(apply(node))}; }}")

    async def end(node: Node) -> None:
        file = f"{HEALING}/{token}"
        await node.account.run(f"[ ! -e {file} ] || {{ sh {file} && rm {file}; }}", timeout=_SECONDS)

    return nodes[0].faults.cause(what, kind, nodes, begin, end)


def _note(name: str, heal: str) -> str:
    """Return a script that writes down how to heal, for the end of the case."""
    file, part = f"{HEALING}/{name}", f"{HEALING}.{name}"  # several faults may begin at the same time
    # Moved, as half of it would be no script.
    return f"mkdir -p {HEALING} && printf %s {script_of([heal])} > {part} && mv {part} {file}"


async def _run(node: Node, what: str, script: str) -> str:
    """Run a script on a node that may find that the node cannot do it.

    :raises UnsupportedError: the node cannot.
    """
    done = await node.account.run(f"{{ {_BEGIN}{script}\n}}", check=False, timeout=_SECONDS)
    if done.code == 0:
        return done.stdout
    problem = done.stderr.strip().split("\n")[-1] or f"exit code {done.code}"
    if done.code == _UNSUPPORTED:
        raise UnsupportedError(f"{what}: node {node.name} {problem}")
    raise LabError(f"{what}: node {node.name}: {problem}")


def _as_root(script: str) -> str:
    """Return a script that runs another one as root, with the ends of the SSH connection as arguments."""
    path = "PATH=$PATH:/usr/sbin:/sbin; export PATH\n"
    run = script_of(["/bin/sh", "-c", f"{path}{_BEGIN}{script}", "sh"]) + " $SSH_CONNECTION"
    return (
        f'if [ "$(id -u)" = 0 ]; then {run}\n'
        f"elif sudo -n true 2> /dev/null; then sudo -n {run}\n"
        f"else echo 'needs root, or sudo without a password' >&2; exit {_UNSUPPORTED}\nfi"
    )


_OWN_ADDRESS = "nodes with addresses of their own are needed, over SSH or in containers"
_PARTITION = """
command -v iptables > /dev/null || unsupported 'has no iptables: apt-get install iptables'
error=$(iptables -w 10 -S 2>&1 > /dev/null) || unsupported "may not use iptables: $error"
for host in {hosts}; do
  found=$(getent ahosts "$host" | cut -d ' ' -f 1 | sort -u)
  [ -n "$found" ] || {{ echo "cannot find the address of $host" >&2; exit 1; }}
  for address in $found; do
    case $address in
      127.*|::1) unsupported "is at the loopback address $address of $host: {why}";;
      *:*) table=ip6tables;;
      *) table=iptables;;
    esac
    if ! $table -w 10 -S {chain} > /dev/null 2>&1; then
      $table -w 10 -N {chain} || exit 1
      case $table:$1 in
        ip6tables:*:*|iptables:*.*)
          $table -w 10 -A {chain} -p tcp -s "$1" --dport "$4" -j RETURN || exit 1
          $table -w 10 -A {chain} -p tcp -d "$1" --sport "$4" -j RETURN || exit 1;;
      esac
    fi
    $table -w 10 -A {chain} -s "$address" -j DROP && $table -w 10 -A {chain} -d "$address" -j DROP || exit 1
  done
done
for table in iptables ip6tables; do
  $table -w 10 -S {chain} > /dev/null 2>&1 || continue
  for point in INPUT OUTPUT FORWARD; do $table -w 10 -I $point -j {chain} || exit 1; done
done
"""
_UNITE = """
for table in iptables ip6tables; do
  $table -w 10 -S {chain} > /dev/null 2>&1 || continue
  for point in INPUT OUTPUT FORWARD; do
    while $table -w 10 -D $point -j {chain} 2> /dev/null; do :; done
  done
  $table -w 10 -F {chain} && $table -w 10 -X {chain} || exit 1
done
"""
# Everything except the lab's own connection and ARP goes through netem.
_DEGRADE = """
command -v tc > /dev/null || unsupported 'has no tc: apt-get install iproute2'
address=$(getent ahosts {host} | head -n 1 | cut -d ' ' -f 1)
device=$(ip -o address show to "$address" 2> /dev/null | head -n 1 | cut -d ' ' -f 2)
[ -n "$device" ] || device=$(ip -o route show default | sed -n '1s/.* dev \\([^ ]*\\).*/\\1/p')
[ -n "$device" ] || {{ echo 'has no interface with its address, and no default route' >&2; exit 1; }}
[ "$device" != lo ] || unsupported "is at the loopback address $address: {why}"
set_up() {{
  tc qdisc add dev "$device" root handle 7c1: prio bands 2 priomap 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1 || return
  tc qdisc add dev "$device" parent 7c1:2 netem limit 100000 {netem} || return
  filter="tc filter add dev $device parent 7c1: protocol"
  $filter arp prio 1 u32 match u32 0 0 flowid 7c1:1 || return
  case $1 in
    *:*) $filter ipv6 prio 2 u32 match ip6 dst "$1" match ip6 sport "$4" 0xffff flowid 7c1:1;;
    *.*) $filter ip prio 2 u32 match ip dst "$1" match ip sport "$4" 0xffff flowid 7c1:1;;
  esac
}}
error=$(set_up "$@" 2>&1) && exit 0
case $error in
  *'is unknown'*) unsupported 'has a kernel without netem: load the modules sch_netem, sch_prio and cls_u32';;
  *permitted*) unsupported "may not use tc: $error";;
esac
echo "tc: $error" >&2
exit 1
"""
_RESTORE = """
ip -o link show | cut -d : -f 2 | cut -d @ -f 1 | while read -r device; do
  case $(tc qdisc show dev "$device") in *'qdisc prio 7c1:'*) tc qdisc del dev "$device" root || exit 1;; esac
done
"""
