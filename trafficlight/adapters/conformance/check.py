"""Run the check: a scripted coordinator, the adapter's process, and the questions."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from trafficlight.adapters.conformance import lifecycle, responses
from trafficlight.adapters.conformance.context import CheckContext, CheckOptions
from trafficlight.adapters.conformance.program import Program
from trafficlight.adapters.conformance.results import Level, Results
from trafficlight.adapters.conformance.scripted import ScriptedCoordinator


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
    with await asyncio.to_thread(TemporaryDirectory, prefix="trafficlight-check-") as folder:
        async with coordinator:
            environment = {"ADAPTER_TOKEN": chosen.token} if chosen.token else {}
            log = Path(folder) / "output.txt"
            try:
                program = Program(command, coordinator.url, log, coordinator.tell, environment)
                await program.start()
            except (OSError, ValueError) as error:
                results.add("starts", Level.WRONG, f"the command cannot be started: {error}")
                return results
            try:
                await _examine(CheckContext(coordinator, program, chosen, results))
                results.output = program.output()
            finally:
                await program.kill()
    return results


async def _examine(context: CheckContext) -> None:
    """Ask every question, as far as the adapter gets."""
    adapter = await lifecycle.first_registration(context)
    for question in (
        lifecycle.polls,
        lifecycle.held_poll,
        responses.action,
        responses.repeated_action,
        responses.refused_answer,
        responses.unknown_action,
        lifecycle.restart,
        lifecycle.exits,
    ):
        if adapter is None:
            break
        adapter = await question(context, adapter)
    responses.answered_once(context)
    await lifecycle.termination(context)
