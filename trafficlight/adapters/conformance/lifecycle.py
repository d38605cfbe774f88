"""Questions about an adapter's life: it registers, polls, survives, comes back, ends."""

import time

from pydantic import ValidationError

from trafficlight.adapters.conformance.context import STARTUP, CheckContext
from trafficlight.adapters.conformance.scripted import ScriptedAdapter
from trafficlight.protocol import EXIT, IDLE, Registration


async def first_registration(context: CheckContext) -> ScriptedAdapter | None:
    """Wait for the registration and check it."""
    adapter = await context.until(lambda: context.newest(0) or context.ended(), STARTUP)
    if not isinstance(adapter, ScriptedAdapter):
        how = (
            f"its process ended with code {context.program.returncode}"
            if context.program.ended
            else "none came"
        )
        context.wrong("registers", f"expected POST /client/<uuid>/register; {how}")
        return None
    _judge_registration(context, adapter)
    return adapter


def _judge_registration(context: CheckContext, adapter: ScriptedAdapter) -> None:
    context.fresh_uuid(adapter)
    try:
        said = Registration.model_validate(adapter.body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "body"
        context.wrong("registers", f"the registration is not valid: {where}: {first['msg']}")
        return
    if adapter.content_type != "application/json":
        context.wrong("registers", f"the registration's type is {adapter.content_type}, not application/json")
        return
    context.ok("registers", f"as {said.type!r}, version {said.version!r}")
    if said.version is None:
        context.note("tells-version", "it declares no client version")
    if said.actions is None:
        context.note("declares-actions", "it declares no actions, so tests may send it any action")
    else:
        context.ok("declares-actions", ", ".join(said.actions) or "none")


async def polls(context: CheckContext, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
    """Wait for its first poll."""
    if await context.until(lambda: adapter.polls) is None:
        context.wrong("polls", f"no poll within {context.options.grace:g} s of the registration")
        return None
    context.ok("polls", "after it registered")
    if adapter.polls[0].wait is None:
        context.note("asks-to-wait", "it does not send ?wait=, so the coordinator chooses the hold time")
    return adapter


async def held_poll(context: CheckContext, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
    """Hold a poll with nothing to do, and see it come back."""
    options = context.options
    first = adapter.polls[0]
    again = await context.until(
        lambda: next(iter(adapter.polls[1:]), None) or context.ended(), options.hold + options.grace
    )
    held = (first.ended or time.monotonic()) - first.began
    if first.dropped or (again is not None and first.ended is None):
        context.wrong("held-poll", f"it closed a held poll after {held:.1f} s")
    elif again is None or context.program.ended:
        context.wrong("held-poll", f"no poll followed one that was held {held:.1f} s and answered {IDLE!r}")
        return await context.next_life(adapter, "held-poll") if context.program.ended else None
    else:
        context.ok("held-poll", f"survives a poll that is held {held:.1f} s")
        _judge_idle_delay(context, adapter)
    return adapter


def _judge_idle_delay(context: CheckContext, adapter: ScriptedAdapter) -> None:
    first, second = adapter.polls[:2]
    if first.ended is None:
        return
    waited, asked = second.began - first.ended, context.coordinator.delay / 1000
    if asked * 0.9 <= waited < asked + 1:
        context.ok("idle-delay", f"polls {waited:.1f} s after an idle that asks for {asked:.1f} s")
    else:
        context.note("idle-delay", f"polls {waited:.1f} s after an idle that asks for {asked:.1f} s")


async def restart(context: CheckContext, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
    """Restart the coordinator, which then knows no adapter."""
    if await context.until(lambda: adapter.polls) is None:
        context.wrong("polls", "it registered again, and did not poll")
        return None
    count = len(context.coordinator.adapters)
    await context.coordinator.stop()
    await context.coordinator.until(lambda: None, context.options.away)
    await context.coordinator.start()
    back = await context.until(lambda: context.newest(count) or context.ended())
    if isinstance(back, ScriptedAdapter):
        context.fresh_uuid(back)
        context.ok("coordinator-restart", "registers again with a coordinator that was restarted")
        return back
    if context.program.ended:
        context.note(
            "coordinator-restart",
            f"its process ends (code {context.program.returncode}) when the coordinator is down",
        )
        return await context.next_life(adapter, "coordinator-restart")
    context.wrong("coordinator-restart", "it does not register with a coordinator that was restarted")
    return None


async def exits(context: CheckContext, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
    """Send `exit` and expect a new registration."""
    if await context.until(lambda: adapter.polls) is None:
        context.wrong("exit", "it registered again, and did not poll")
        return None
    await adapter.exit()
    told = await context.until(
        lambda: next((poll for poll in adapter.polls if poll.answer and poll.answer.action == EXIT), None)
    )
    if told is None:
        context.wrong("exit", "it did not poll any more")
        return None
    count = len(adapter.polls)
    successor = await context.next_life(adapter, "exit")
    if len(adapter.polls) > count:
        context.wrong("exit", f"it polls on under its old uuid ({len(adapter.polls) - count} times)")
    elif successor is not None:
        context.ok("exit", "stops polling, and registers again under a new uuid")
    return successor


async def termination(context: CheckContext) -> None:
    """Ask its process to end."""
    if context.program.ended:
        return
    if await context.program.terminate(context.options.grace):
        context.ok("terminates", "ends on SIGTERM")
    else:
        context.note(
            "terminates", f"still runs {context.options.grace:g} s after SIGTERM: it has to be killed"
        )
