"""Questions about an adapter's answers: one per action, with its id; a report where it cannot answer."""

from uuid import uuid4

from pydantic import ValidationError

from trafficlight.adapters.conformance.bench import SPIN, Bench
from trafficlight.adapters.conformance.results import Level
from trafficlight.adapters.conformance.scripted import Reply, ScriptedAdapter
from trafficlight.protocol import EXIT, IDLE, ErrorReport


async def action(bench: Bench, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
    """Ask for an action that it can perform; where none was named, for one that it declares."""
    name = bench.options.action or _declared(adapter)
    if name is None:
        bench.note("responds", "not judged: it declares no action, and none was named")
        return adapter
    count = len(adapter.polls)
    reply = await bench.act(adapter, name)
    if reply is None:
        bench.silent("responds", adapter, name, count)
        return None
    early = sum(poll.began < reply.at for poll in adapter.polls[count:]) - 1
    successor = await _judge(bench, adapter, name, reply)
    _judge_outstanding(bench, early)
    return successor


async def _judge(bench: Bench, adapter: ScriptedAdapter, name: str, reply: Reply) -> ScriptedAdapter | None:
    if reply.kind == "error":
        if bench.options.action is None:
            bench.ok("responds", f"to {name}, sent without its data, by an error report: {_details(reply)}")
        else:
            bench.wrong("responds", f"{name} was answered by an error: {_details(reply)}")
        return await bench.next_life(adapter, "new-life-after-error")
    if not isinstance(reply.body, dict):
        bench.wrong("responds", "the response is no JSON object")
        return adapter
    if reply.body.get("response") == "error":
        bench.wrong("responds", f"{name} was answered {reply.body}: a failure belongs to POST error")
    else:
        bench.ok("responds", f"to {name}")
    known = {poll.answer.id for poll in adapter.polls if poll.answer is not None and poll.answer.id}
    if reply.id is None:
        bench.note("echoes-id", "its responses carry no id: they are taken in good faith")
    elif reply.id in known:
        bench.ok("echoes-id", "its responses carry the action's id")
    else:
        bench.wrong("echoes-id", f"its response carries the id {reply.id!r}, which is no action's")
    return adapter


def _judge_outstanding(bench: Bench, early: int) -> None:
    if early > SPIN:
        bench.wrong("polls-after-response", f"{early} polls while an action was outstanding: it spins")
    elif early > 0:
        bench.note("polls-after-response", f"{early} polls while an action was outstanding")
    else:
        bench.ok("polls-after-response", "no poll while an action is outstanding")


async def repeated_action(bench: Bench, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
    """Send the action that it answered last once more, as if its answer had been lost."""
    last = adapter.replies[-1] if adapter.replies else None
    name = bench.options.action or _declared(adapter)
    if name is None or last is None or last.id is None:
        return adapter  # without ids it cannot know a repeat
    again = await adapter.act(name, bench.options.data, id=last.id, timeout=bench.options.grace)
    if again is None:
        bench.wrong("repeated-action", f"{name} came again, as if the answer was lost, and was not answered")
    elif again.kind == "respond" and again.body == last.body:
        bench.ok("repeated-action", "an action that comes again gets the same answer again")
    else:
        bench.wrong("repeated-action", f"an action that came again was answered differently: {again.body}")
    return adapter


async def refused_answer(bench: Bench, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
    """Refuse an answer, as one that came too late is."""
    name = bench.options.action or _declared(adapter)
    if name is None or not adapter.replies:
        return adapter  # what it answers by an error report was seen to before
    bench.coordinator.refusals.append(("respond", 409))
    polls = len(adapter.polls)
    reply = await bench.act(adapter, name)
    if reply is None or reply.status != 409:
        bench.coordinator.refusals.clear()
        bench.wrong("refused-answer", f"{name} was not answered a second time")
        return adapter
    began = reply.at
    after = await bench.until(
        lambda: (
            any(poll.began > began for poll in adapter.polls[polls:])
            or bench.newest_after(adapter)
            or bench.ended()
        )
    )
    if after is True and not bench.program.ended:
        bench.ok("refused-answer", "goes on polling after its answer was refused with 409")
        return adapter
    what = "its process ended" if bench.program.ended else "it polls no more"
    level = Level.WRONG if reply.id is not None else Level.NOTE
    text = f"after an answer was refused with 409, {what}"
    if bench.newest_after(adapter) is not None:
        level, text = Level.NOTE, "after an answer was refused with 409, it registers anew"
    bench.results.add("refused-answer", level, text)
    return await bench.next_life(adapter, "refused-answer")


async def unknown_action(bench: Bench, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
    """Ask for an action that nobody has."""
    name = f"no_such_action_{uuid4().hex[:6]}"
    polls = len(adapter.polls)
    reply = await bench.act(adapter, name)
    if reply is None:
        bench.silent("unknown-action", adapter, name, polls)
        await adapter.exit("it does not answer")
        return await bench.next_life(adapter, "unknown-action")
    if reply.kind == "respond":
        if isinstance(reply.body, dict) and reply.body.get("response") == "error":
            bench.note(
                "unknown-action", "answered by response 'error'; POST error would say which action it was"
            )
        else:
            bench.wrong("unknown-action", f"an action that does not exist was answered {reply.body}")
        return adapter
    try:
        report = ErrorReport.model_validate(reply.body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        bench.wrong("unknown-action", f"its error report is not valid: {first['loc']}: {first['msg']}")
        return await bench.next_life(adapter, "unknown-action")
    if report.error.type == "action":
        bench.wrong("unknown-action", "reported as type 'action', which blames the client under test")
    elif name in report.error.details:
        bench.ok("unknown-action", f"reported, with its name, as type {report.error.type!r}")
    else:
        bench.note("unknown-action", "reported, but the report does not name the action")
    return await bench.next_life(adapter, "new-life-after-error")


def answered_once(bench: Bench) -> None:
    """Count the answers of all its lives."""
    for adapter in bench.coordinator.adapters:
        asked = sum(1 for poll in adapter.polls if poll.answer and poll.answer.action not in (IDLE, EXIT))
        answered = sum(reply.kind == "respond" for reply in adapter.replies)
        if answered > asked:
            bench.wrong("responds-once", f"more responses than actions: {answered} for {asked}")
            return
    if any(adapter.replies for adapter in bench.coordinator.adapters):
        bench.ok("responds-once", "one answer per action")


def _declared(adapter: ScriptedAdapter) -> str | None:
    declared = adapter.body.get("actions") if isinstance(adapter.body, dict) else None
    return str(declared[0]) if isinstance(declared, list) and declared else None


def _details(reply: Reply) -> str:
    try:
        return ErrorReport.model_validate(reply.body).error.details.partition("\n")[0]
    except ValidationError:
        return str(reply.body)
