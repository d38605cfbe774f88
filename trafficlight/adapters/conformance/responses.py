"""Questions about an adapter's answers: one per action, with its id; a report where it cannot answer."""

from uuid import uuid4

from pydantic import ValidationError

from trafficlight.adapters.conformance.context import SPIN, CheckContext
from trafficlight.adapters.conformance.results import Level
from trafficlight.adapters.conformance.scripted import Reply, ScriptedAdapter
from trafficlight.protocol import EXIT, IDLE, ErrorReport


async def action(context: CheckContext, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
    """Ask for an action that it can perform; where none was named, for one that it declares."""
    name = context.options.action or _declared(adapter)
    if name is None:
        context.note("responds", "not judged: it declares no action, and none was named")
        return adapter
    count = len(adapter.polls)
    reply = await context.act(adapter, name)
    if reply is None:
        context.silent("responds", adapter, name, count)
        return None
    early = sum(poll.began < reply.at for poll in adapter.polls[count:]) - 1
    successor = await _judge(context, adapter, name, reply)
    _judge_outstanding(context, early)
    return successor


async def _judge(
    context: CheckContext, adapter: ScriptedAdapter, name: str, reply: Reply
) -> ScriptedAdapter | None:
    if reply.kind == "error":
        if context.options.action is None:
            context.ok("responds", f"to {name}, sent without its data, by an error report: {_details(reply)}")
        else:
            context.wrong("responds", f"{name} was answered by an error: {_details(reply)}")
        return await context.next_life(adapter, "new-life-after-error")
    if not isinstance(reply.body, dict):
        context.wrong("responds", "the response is not a JSON object")
        return adapter
    if reply.body.get("response") == "error":
        context.wrong("responds", f"{name} was answered {reply.body}: a failure belongs to POST error")
    else:
        context.ok("responds", f"to {name}")
    known = {poll.answer.id for poll in adapter.polls if poll.answer is not None and poll.answer.id}
    if reply.id is None:
        context.note("echoes-id", "its responses have no id, so they cannot be checked against actions")
    elif reply.id in known:
        context.ok("echoes-id", "its responses carry the action's id")
    else:
        context.wrong("echoes-id", f"its response carries the id {reply.id!r}, which is no action's")
    return adapter


def _judge_outstanding(context: CheckContext, early: int) -> None:
    if early > SPIN:
        context.wrong("polls-after-response", f"{early} polls while an action was outstanding: it spins")
    elif early > 0:
        context.note("polls-after-response", f"{early} polls while an action was outstanding")
    else:
        context.ok("polls-after-response", "no poll while an action is outstanding")


async def repeated_action(context: CheckContext, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
    """Send its last answered action again, as if the answer had been lost."""
    last = adapter.replies[-1] if adapter.replies else None
    name = context.options.action or _declared(adapter)
    if name is None or last is None or last.id is None:
        return adapter  # without ids it cannot know a repeat
    again = await adapter.act(name, context.options.data, id=last.id, timeout=context.options.grace)
    if again is None:
        context.wrong("repeated-action", f"{name} came again, as if its answer was lost: no answer")
    elif again.kind == "respond" and again.body == last.body:
        context.ok("repeated-action", "an action that comes again gets the same answer again")
    else:
        context.wrong("repeated-action", f"an action that came again was answered differently: {again.body}")
    return adapter


async def refused_answer(context: CheckContext, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
    """Refuse an answer, as one that came too late is."""
    name = context.options.action or _declared(adapter)
    if name is None or not adapter.replies:
        return adapter  # what it answers by an error report was seen to before
    context.coordinator.refusals.append(("respond", 409))
    polls = len(adapter.polls)
    reply = await context.act(adapter, name)
    if reply is None or reply.status != 409:
        context.coordinator.refusals.clear()
        context.wrong("refused-answer", f"{name} was not answered a second time")
        return adapter
    began = reply.at
    after = await context.until(
        lambda: (
            any(poll.began > began for poll in adapter.polls[polls:])
            or context.newest_after(adapter)
            or context.ended()
        )
    )
    if after is True and not context.program.ended:
        context.ok("refused-answer", "goes on polling after its answer was refused with 409")
        return adapter
    what = "its process ended" if context.program.ended else "it stopped polling"
    level = Level.WRONG if reply.id is not None else Level.NOTE
    text = f"after an answer was refused with 409, {what}"
    if context.newest_after(adapter) is not None:
        level, text = Level.NOTE, "after an answer was refused with 409, it registers again"
    context.results.add("refused-answer", level, text)
    return await context.next_life(adapter, "refused-answer")


async def unknown_action(context: CheckContext, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
    """Send an action that no adapter supports."""
    name = f"no_such_action_{uuid4().hex[:6]}"
    polls = len(adapter.polls)
    reply = await context.act(adapter, name)
    if reply is None:
        context.silent("unknown-action", adapter, name, polls)
        await adapter.exit("it does not answer")
        return await context.next_life(adapter, "unknown-action")
    if reply.kind == "respond":
        if isinstance(reply.body, dict) and reply.body.get("response") == "error":
            context.note(
                "unknown-action", "answered by response 'error'; POST error would say which action it was"
            )
        else:
            context.wrong("unknown-action", f"an action that does not exist was answered {reply.body}")
        return adapter
    try:
        report = ErrorReport.model_validate(reply.body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        context.wrong("unknown-action", f"its error report is not valid: {first['loc']}: {first['msg']}")
        return await context.next_life(adapter, "unknown-action")
    if report.error.type == "action":
        context.wrong("unknown-action", "reported as type 'action', which blames the client under test")
    elif name in report.error.details:
        context.ok("unknown-action", f"reported, with its name, as type {report.error.type!r}")
    else:
        context.note("unknown-action", "reported, but the report does not name the action")
    return await context.next_life(adapter, "new-life-after-error")


def answered_once(context: CheckContext) -> None:
    """Count the answers of all its lives."""
    for adapter in context.coordinator.adapters:
        asked = sum(1 for poll in adapter.polls if poll.answer and poll.answer.action not in (IDLE, EXIT))
        answered = sum(reply.kind == "respond" for reply in adapter.replies)
        if answered > asked:
            context.wrong("responds-once", f"more responses than actions: {answered} for {asked}")
            return
    if any(adapter.replies for adapter in context.coordinator.adapters):
        context.ok("responds-once", "one answer per action")


def _declared(adapter: ScriptedAdapter) -> str | None:
    declared = adapter.body.get("actions") if isinstance(adapter.body, dict) else None
    return str(declared[0]) if isinstance(declared, list) and declared else None


def _details(reply: Reply) -> str:
    try:
        return ErrorReport.model_validate(reply.body).error.details.partition("\n")[0]
    except ValidationError:
        return str(reply.body)
