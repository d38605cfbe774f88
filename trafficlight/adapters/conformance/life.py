"""Questions about an adapter's life: it registers, polls, survives, comes back, ends."""

import time

from pydantic import ValidationError

from trafficlight.adapters.conformance.bench import Bench
from trafficlight.adapters.conformance.scripted import ScriptedAdapter
from trafficlight.protocol import EXIT, IDLE, Registration


async def first_registration(bench: Bench) -> ScriptedAdapter | None:
    """Wait for it, and judge what it says of itself."""
    adapter = await bench.until(lambda: bench.newest(0) or bench.ended(), bench.options.startup)
    if not isinstance(adapter, ScriptedAdapter):
        how = (
            f"its process ended with code {bench.program.returncode}" if bench.program.ended else "none came"
        )
        bench.wrong("registers", f"expected POST /client/<uuid>/register; {how}")
        return None
    _judge_registration(bench, adapter)
    return adapter


def _judge_registration(bench: Bench, adapter: ScriptedAdapter) -> None:
    bench.fresh_uuid(adapter)
    try:
        said = Registration.model_validate(adapter.body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        bench.wrong("registers", f"the registration is not valid: {where}: {first['msg']}")
        return
    if adapter.content_type != "application/json":
        bench.wrong("registers", f"the registration's type is {adapter.content_type}, not application/json")
        return
    bench.ok("registers", f"as {said.type!r}, version {said.version!r}")
    if said.version is None:
        bench.note("tells-version", "it does not say which version of the client it drives")
    if said.actions is None:
        bench.note("declares-actions", "it does not say what it can perform, so it is asked for anything")
    else:
        bench.ok("declares-actions", ", ".join(said.actions) or "none")


async def polls(bench: Bench, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
    """Wait for its first poll."""
    if await bench.until(lambda: adapter.polls) is None:
        bench.wrong("polls", f"no poll within {bench.options.grace:g} s of the registration")
        return None
    bench.ok("polls", "after it registered")
    if adapter.polls[0].wait is None:
        bench.note("asks-to-wait", "it does not send ?wait=; the coordinator holds as long as it likes")
    return adapter


async def held_poll(bench: Bench, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
    """Hold a poll with nothing to do, and see it come back."""
    options = bench.options
    first = adapter.polls[0]
    again = await bench.until(
        lambda: next(iter(adapter.polls[1:]), None) or bench.ended(), options.hold + options.grace
    )
    held = (first.ended or time.monotonic()) - first.began
    if first.dropped or (again is not None and first.ended is None):
        bench.wrong("held-poll", f"it gave a held poll up after {held:.1f} s")
    elif again is None or bench.program.ended:
        bench.wrong("held-poll", f"no poll followed one that was held {held:.1f} s and answered {IDLE!r}")
        return await bench.next_life(adapter, "held-poll") if bench.program.ended else None
    else:
        bench.ok("held-poll", f"survives a poll that is held {held:.1f} s")
        _judge_idle_delay(bench, adapter)
    return adapter


def _judge_idle_delay(bench: Bench, adapter: ScriptedAdapter) -> None:
    first, second = adapter.polls[:2]
    if first.ended is None:
        return
    waited, asked = second.began - first.ended, bench.coordinator.delay / 1000
    if asked * 0.9 <= waited < asked + 1:
        bench.ok("idle-delay", f"polls {waited:.1f} s after an idle that asks for {asked:.1f} s")
    else:
        bench.note("idle-delay", f"polls {waited:.1f} s after an idle that asks for {asked:.1f} s")


async def restart(bench: Bench, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
    """Go away, come back, and remember nobody."""
    if await bench.until(lambda: adapter.polls) is None:
        bench.wrong("polls", "it registered again, and did not poll")
        return None
    count = len(bench.coordinator.adapters)
    await bench.coordinator.stop()
    await bench.coordinator.until(lambda: None, bench.options.away)
    await bench.coordinator.start()
    back = await bench.until(lambda: bench.newest(count) or bench.ended())
    if isinstance(back, ScriptedAdapter):
        bench.fresh_uuid(back)
        bench.ok("coordinator-restart", "registers anew with a coordinator that was restarted")
        return back
    if bench.program.ended:
        bench.note(
            "coordinator-restart",
            f"its process ends (code {bench.program.returncode}) when the coordinator is away",
        )
        return await bench.next_life(adapter, "coordinator-restart")
    bench.wrong("coordinator-restart", "it does not register with a coordinator that was restarted")
    return None


async def exits(bench: Bench, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
    """Tell it to exit."""
    if await bench.until(lambda: adapter.polls) is None:
        bench.wrong("exit", "it registered again, and did not poll")
        return None
    await adapter.exit()
    told = await bench.until(
        lambda: next((poll for poll in adapter.polls if poll.answer and poll.answer.action == EXIT), None)
    )
    if told is None:
        bench.wrong("exit", "it did not poll any more")
        return None
    count = len(adapter.polls)
    successor = await bench.next_life(adapter, "exit")
    if len(adapter.polls) > count:
        bench.wrong("exit", f"it polls on under its old uuid ({len(adapter.polls) - count} times)")
    elif successor is not None:
        bench.ok("exit", "stops polling, and comes back under a new uuid")
    return successor


async def termination(bench: Bench) -> None:
    """Ask its process to end."""
    if bench.program.ended:
        return
    if await bench.program.terminate(bench.options.grace):
        bench.ok("terminates", "ends on SIGTERM")
    else:
        bench.note("terminates", f"still runs {bench.options.grace:g} s after SIGTERM: it has to be killed")
