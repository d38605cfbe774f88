"""What the coordinator keeps of a fork server's answers."""

import asyncio
import signal
from types import SimpleNamespace
from typing import Any

from trafficlight.homeservers.local.fork_server import ForkedProcess


async def test_a_process_may_be_signalled_again_while_a_signal_is_waited_for() -> None:
    """As a homeserver that a case kills at its end while the test pauses it."""
    first, second = (asyncio.get_running_loop().create_future() for _ in range(2))
    answers = [first, second]
    owner: Any = SimpleNamespace(send=lambda request: answers.pop(0))
    process = ForkedProcess(1, owner)
    process.signal(signal.SIGSTOP)
    waiting = asyncio.create_task(process.signalled())
    await asyncio.sleep(0)  # it waits
    process.signal(signal.SIGKILL)
    first.set_result(process)
    await waiting
    second.set_result(None)  # the fork server has exited
    waiting = asyncio.create_task(process.signalled())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not waiting.done()
    process.end(-signal.SIGKILL)
    await waiting
