"""Check any adapter, in any language: start it on a scripted coordinator and judge what it does."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar
from uuid import UUID, uuid4

from pydantic import ValidationError

from trafficlight.adapters.conformance.program import Program
from trafficlight.adapters.conformance.results import CheckOptions, Level, Results
from trafficlight.adapters.conformance.scripted import Reply, ScriptedAdapter, ScriptedCoordinator
from trafficlight.adapters.host.driver import BUFFERED
from trafficlight.protocol import EXIT, IDLE, TOKEN_VARIABLES, ErrorReport, JsonObject, Registration
from trafficlight.text import first_problem, single_line

T = TypeVar("T")

_ON_A_HOMESERVER = 60.0  # seconds that an action has there, as adapters learn when they register again
_SPIN = 3  # polls at the wrong time; more are a tight loop


async def check(command: str, options: CheckOptions | None = None) -> Results:
    """Check an adapter and return what it does right and wrong. Its process is ended in every case.

    :param command: how to start it; ``{url}`` stands for the coordinator's URL, which is also in
        ``TRAFFICLIGHT_URL`` and ``trafficlightURL``.
    :param options: what to do; the defaults take about ten seconds.
    """
    chosen = options or CheckOptions()
    results = Results(command)
    coordinator = ScriptedCoordinator(
        hold=chosen.hold, delay=round(chosen.idle_delay * 1000), token=chosen.token
    )
    coordinator.deadlines["action"] = chosen.grace
    folder = await asyncio.to_thread(TemporaryDirectory, prefix="trafficlight-check-")
    try:
        async with coordinator:
            environment = dict.fromkeys(TOKEN_VARIABLES, chosen.token) if chosen.token else {}
            log = Path(folder.name) / "output.txt"
            try:
                program = Program(command, coordinator.url, log, coordinator.notify, environment)
                await program.start()
            except (OSError, ValueError) as error:
                results.add("starts", Level.WRONG, f"the command cannot be started: {error}")
                return results
            try:
                await _Examination(coordinator, program, chosen, results).run()
                results.output = await asyncio.to_thread(program.output)
            finally:
                await program.kill()
    finally:
        await asyncio.to_thread(folder.cleanup)
    return results


@dataclass
class _Examination:
    """The examination of one adapter.

    A question takes a registration, and returns the one for the next question; None ends the examination.
    """

    coordinator: ScriptedCoordinator
    program: Program
    options: CheckOptions
    results: Results
    uuids: set[str] = field(default_factory=set)

    async def run(self) -> None:
        """Ask every question, as far as the adapter gets."""
        adapter = await self.first_registration()
        for question in (
            self.polls,
            self.held_poll,
            self.action,
            self.repeated_action,
            self.refused_answer,
            self.unknown_action,
            self.restart,
            self.truth,
            self.exits,
        ):
            if adapter is None:
                break
            adapter = await question(adapter)
        self.answered_once()
        await self.termination()

    async def first_registration(self) -> ScriptedAdapter | None:
        """Wait for the registration and check it."""
        adapter = await self.until(lambda: self.newest(0) or self.program.ended, self.options.startup)
        if not isinstance(adapter, ScriptedAdapter):
            how = (
                f"its process ended with code {self.program.returncode}"
                if self.program.ended
                else "none came"
            )
            self.wrong("registers", f"expected POST /client/<uuid>/register; {how}")
            return None
        self.fresh_uuid(adapter)
        try:
            said = Registration.model_validate(adapter.body)
        except ValidationError as error:
            where, problem = first_problem(error)
            self.wrong("registers", f"the registration is not valid: {where or 'the body'} {problem}")
            return adapter
        if adapter.content_type != "application/json":
            self.wrong(
                "registers", f"the registration's type is {adapter.content_type}, not application/json"
            )
            return adapter
        self.ok("registers", f"as {said.type!r}, version {said.version!r}")
        if said.version is None:
            self.note("tells-version", "it declares no client version")
        if said.actions is None:
            self.note("declares-actions", "it declares no actions, so tests may send it any action")
        else:
            self.ok("declares-actions", ", ".join(said.actions) or "none")
        return adapter

    async def polls(self, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
        """Wait for its first poll."""
        if await self.until(lambda: adapter.polls) is None:
            self.wrong("polls", f"no poll within {self.options.grace:g} s of the registration")
            return None
        self.ok("polls", "after it registered")
        if adapter.polls[0].wait is None:
            self.note("asks-to-wait", "it does not send ?wait=, so the coordinator chooses the hold time")
        return adapter

    async def held_poll(self, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
        """Hold a poll with nothing to do, and see it come back."""
        options = self.options
        first = adapter.polls[0]
        again = await self.until(
            lambda: next(iter(adapter.polls[1:]), None) or self.program.ended, options.hold + options.grace
        )
        held = (first.ended or time.monotonic()) - first.began
        if first.dropped or (again is not None and first.ended is None):
            self.wrong("held-poll", f"it closed a held poll after {held:.1f} s")
        elif again is None or self.program.ended:
            self.wrong("held-poll", f"no poll followed one that was held {held:.1f} s and answered {IDLE!r}")
            return await self.next_life(adapter, "held-poll") if self.program.ended else None
        else:
            self.ok("held-poll", f"survives a poll that is held {held:.1f} s")
            if first.ended is not None:
                waited, asked = adapter.polls[1].began - first.ended, self.coordinator.delay / 1000
                report = self.ok if asked * 0.9 <= waited < asked + 1 else self.note
                report("idle-delay", f"polls {waited:.1f} s after an idle that asks for {asked:.1f} s")
        return adapter

    async def restart(self, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
        """Restart the coordinator, which then knows no adapter."""
        if await self.until(lambda: adapter.polls) is None:
            self.wrong("polls", "it registered again, and did not poll")
            return None
        count = len(self.coordinator.adapters)
        await self.coordinator.stop()
        self.coordinator.deadlines["action"] = _ON_A_HOMESERVER
        await self.coordinator.until(lambda: None, self.options.away)
        await self.coordinator.start()
        back = await self.until(lambda: self.newest(count) or self.program.ended, self.options.startup)
        if isinstance(back, ScriptedAdapter):
            self.fresh_uuid(back)
            self.ok("coordinator-restart", "registers again with a coordinator that was restarted")
            return back
        if self.program.ended:
            self.note(
                "coordinator-restart",
                f"its process ends (code {self.program.returncode}) when the coordinator is down",
            )
            return await self.next_life(adapter, "coordinator-restart")
        self.wrong("coordinator-restart", "it does not register with a coordinator that was restarted")
        return None

    async def truth(self, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
        """Have a conversation on a real homeserver, if there is one."""
        if self.options.homeserver is None:
            return adapter
        from trafficlight.adapters.conformance.truth import Truth  # needs the built-in client

        if await Truth(adapter, self.options.homeserver, self.results).examine():
            return adapter
        return await self.next_life(adapter, "new-life-after-error")

    async def exits(self, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
        """Send `exit` and expect a new registration."""
        if await self.until(lambda: adapter.polls) is None:
            self.wrong("exit", "it registered again, and did not poll")
            return None
        await adapter.exit()
        answered = await self.until(
            lambda: next((poll for poll in adapter.polls if poll.answer and poll.answer.action == EXIT), None)
        )
        if answered is None:
            self.wrong("exit", "it did not poll any more")
            return None
        count = len(adapter.polls)
        successor = await self.next_life(adapter, "exit")
        if len(adapter.polls) > count:
            self.wrong("exit", f"it polls on under its old uuid ({len(adapter.polls) - count} times)")
        elif successor is not None:
            self.ok("exit", "stops polling, and registers again under a new uuid")
        return successor

    async def termination(self) -> None:
        """Ask its process to end."""
        if self.program.ended:
            return
        if await self.program.terminate(self.options.grace):
            self.ok("terminates", "ends on SIGTERM")
        else:
            self.note("terminates", f"still runs {self.options.grace:g} s after SIGTERM: it has to be killed")

    async def action(self, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
        """Ask for an action that it can perform; where none was named, for one that it declares."""
        name = self.tried(adapter)
        if name is None:
            self.note("responds", "not judged: it declares no action, and none was named")
            return adapter
        count = len(adapter.polls)
        reply = await self.act(adapter, name)
        if reply is None:
            self.silent("responds", adapter, name, count)
            return None
        early = sum(poll.began < reply.at for poll in adapter.polls[count:]) - 1
        successor = await self._judge(adapter, name, reply)
        if early > _SPIN:
            self.wrong("polls-after-response", f"{early} polls while an action was outstanding: it spins")
        elif early > 0:
            self.note("polls-after-response", f"{early} polls while an action was outstanding")
        else:
            self.ok("polls-after-response", "no poll while an action is outstanding")
        return successor

    async def _judge(self, adapter: ScriptedAdapter, name: str, reply: Reply) -> ScriptedAdapter | None:
        if reply.kind == "error":
            if self.options.action is None:
                sent = "example data" if self.data(name) else "no data"
                self.ok("responds", f"to {name}, sent with {sent}, by an error report: {_details(reply)}")
            else:
                self.wrong("responds", f"{name} was answered by an error: {_details(reply)}")
            return await self.next_life(adapter, "new-life-after-error")
        if not isinstance(reply.body, dict):
            self.wrong("responds", "the response is not a JSON object")
            return adapter
        if reply.body.get("response") == "error":
            if reply.body.get("details"):
                self.ok("responds", f"to {name}, by a failure: {single_line(str(reply.body['details']))}")
            else:
                self.wrong("responds", f"{name} failed without `details`: {reply.body}")
        else:
            self.ok("responds", f"to {name}")
        known = {poll.answer.id for poll in adapter.polls if poll.answer is not None and poll.answer.id}
        if reply.id is None:
            self.note("echoes-id", "its responses have no id, so they cannot be checked against actions")
        elif reply.id in known:
            self.ok("echoes-id", "its responses carry the action's id")
        else:
            self.wrong("echoes-id", f"its response carries the id {reply.id!r}, which is no action's")
        return adapter

    async def repeated_action(self, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
        """Send its last answered action again, as if the answer had been lost."""
        last = adapter.replies[-1] if adapter.replies else None
        name = self.tried(adapter)
        if name is None or last is None or last.id is None:
            return adapter  # without ids it cannot know a repeat
        again = await adapter.act(name, self.data(name), id=last.id, timeout=self.options.grace)
        if again is None:
            self.wrong("repeated-action", f"{name} came again, as if its answer was lost: no answer")
        elif again.kind == "respond" and again.body == last.body:
            self.ok("repeated-action", "an action that comes again gets the same answer again")
        else:
            self.wrong("repeated-action", f"an action that came again was answered differently: {again.body}")
        return adapter

    async def refused_answer(self, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
        """Refuse an answer, as one that came too late is."""
        name = self.tried(adapter)
        if name is None or not adapter.replies:
            return adapter  # what it answers by an error report was seen to before
        self.coordinator.refusals.append(("respond", 409))
        polls, born = len(adapter.polls), self.coordinator.adapters.index(adapter) + 1
        reply = await self.act(adapter, name)
        if reply is None or reply.status != 409:
            self.coordinator.refusals.clear()
            self.wrong("refused-answer", f"{name} was not answered a second time")
            return adapter
        began = reply.at
        after = await self.until(
            lambda: (
                adapter.replies[-1] is not reply
                or any(poll.began > began for poll in adapter.polls[polls:])
                or self.newest(born)
                or self.program.ended
            )
        )
        if adapter.replies[-1].kind == "error":
            text = "reported an error after a 409: that its answer came too late is no failure of the client"
            self.wrong("refused-answer", text)
            return await self.next_life(adapter, "refused-answer")
        if after is True and not self.program.ended:
            self.ok("refused-answer", "goes on polling after its answer was refused with 409")
            return adapter
        what = "its process ended" if self.program.ended else "it stopped polling"
        level = Level.WRONG if reply.id is not None else Level.NOTE
        text = f"after an answer was refused with 409, {what}"
        if self.newest(born) is not None:
            level, text = Level.NOTE, "after an answer was refused with 409, it registers again"
        self.results.add("refused-answer", level, text)
        return await self.next_life(adapter, "refused-answer")

    async def unknown_action(self, adapter: ScriptedAdapter) -> ScriptedAdapter | None:
        """Send an action that no adapter supports."""
        name = f"no_such_action_{uuid4().hex[:6]}"
        polls = len(adapter.polls)
        reply = await self.act(adapter, name)
        if reply is None:
            self.silent("unknown-action", adapter, name, polls)
            await adapter.exit("it does not answer")
            return await self.next_life(adapter, "unknown-action")
        if reply.kind == "respond":
            if isinstance(reply.body, dict) and reply.body.get("response") == "error":
                self.note(
                    "unknown-action", "answered by response 'error'; POST error would say which action it was"
                )
            else:
                self.wrong("unknown-action", f"an action that does not exist was answered {reply.body}")
            return adapter
        try:
            report = ErrorReport.model_validate(reply.body)
        except ValidationError as error:
            where, problem = first_problem(error)
            self.wrong("unknown-action", f"its error report is not valid: {where or 'the body'} {problem}")
            return await self.next_life(adapter, "unknown-action")
        if report.error.type == "action":
            self.wrong("unknown-action", "reported as type 'action', which blames the client under test")
        elif name in report.error.details:
            self.ok("unknown-action", f"reported, with its name, as type {report.error.type!r}")
        else:
            self.note("unknown-action", "reported, but the report does not name the action")
        return await self.next_life(adapter, "new-life-after-error")

    def answered_once(self) -> None:
        """Count the answers of all its lives."""
        for adapter in self.coordinator.adapters:
            asked = sum(1 for poll in adapter.polls if poll.answer and poll.answer.action not in (IDLE, EXIT))
            answered = sum(reply.kind == "respond" for reply in adapter.replies)
            if answered > asked:
                self.wrong("responds-once", f"more responses than actions: {answered} for {asked}")
                return
        if any(adapter.replies for adapter in self.coordinator.adapters):
            self.ok("responds-once", "one answer per action")

    def fresh_uuid(self, adapter: ScriptedAdapter) -> None:
        """Judge the uuid of a registration."""
        if adapter.uuid in self.uuids:
            self.wrong(
                "fresh-uuid",
                f"it registered a second time as {adapter.uuid}; a registration needs a new uuid",
            )
        self.uuids.add(adapter.uuid)
        try:
            UUID(adapter.uuid)
        except ValueError:
            self.note("fresh-uuid", f"{adapter.uuid!r} is not a UUID, so it may not be unique")

    async def next_life(self, adapter: ScriptedAdapter, check: str) -> ScriptedAdapter | None:
        """Return the registration that follows, starting the program again where it has ended."""
        count = self.coordinator.adapters.index(adapter) + 1
        startup = self.options.startup
        successor = await self.until(lambda: self.newest(count) or self.program.ended, startup)
        if not isinstance(successor, ScriptedAdapter) and self.program.ended:
            how = f"its process ends (code {self.program.returncode})"
            self.note("needs-supervisor", f"{check}: {how}; something has to start it again")
            await self.program.start()
            successor = await self.until(lambda: self.newest(count), startup)
        if not isinstance(successor, ScriptedAdapter):
            self.wrong(check, f"no new registration within {startup:g} s, but its process runs")
            return None
        self.fresh_uuid(successor)
        return successor

    async def act(self, adapter: ScriptedAdapter, name: str) -> Reply | None:
        """Ask for an action."""
        return await adapter.act(name, self.data(name), timeout=self.options.grace)

    def tried(self, adapter: ScriptedAdapter) -> str | None:
        """Return the action to ask for: the one that was named, or the first that the adapter declares."""
        if self.options.action is not None:
            return self.options.action
        declared = adapter.body.get("actions") if isinstance(adapter.body, dict) else None
        return str(declared[0]) if isinstance(declared, list) and declared else None

    def data(self, name: str) -> JsonObject:
        """Return the data of an action: what was given, or its example."""
        if self.options.data is not None:
            return self.options.data
        example = self.options.examples.get(name, {})
        if "homeserver_url" in example:  # the example's homeserver may be somebody's
            url = self.coordinator.url
            example = {**example, "homeserver_url": {"local": url, "local_docker": url}}
        return example

    def silent(self, check: str, adapter: ScriptedAdapter, action: str, polls: int) -> None:
        """Report that an action was not answered."""
        repeats = len(adapter.polls) - polls - 1
        how = f"it spins: {repeats} polls more" if repeats > _SPIN else f"it goes silent ({BUFFERED})"
        self.wrong(
            check, f"{action} was neither answered nor reported within {self.options.grace:g} s; {how}"
        )

    def newest(self, count: int) -> ScriptedAdapter | None:
        """Return the first registration after so many, or None."""
        return next(iter(self.coordinator.adapters[count:]), None)

    async def until(self, see: Callable[[], T | None], timeout: float | None = None) -> T | None:
        """Wait until something is to be seen, as long as the grace is by default."""
        return await self.coordinator.until(see, timeout or self.options.grace)

    def ok(self, check: str, text: str) -> None:
        """Report what it does right."""
        self.results.add(check, Level.OK, text)

    def wrong(self, check: str, text: str) -> None:
        """Report what it does wrong."""
        self.results.add(check, Level.WRONG, text)

    def note(self, check: str, text: str) -> None:
        """Report what it would do better otherwise."""
        self.results.add(check, Level.NOTE, text)


def _details(reply: Reply) -> str:
    try:
        return ErrorReport.model_validate(reply.body).error.details.partition("\n")[0]
    except ValidationError:
        return str(reply.body)
