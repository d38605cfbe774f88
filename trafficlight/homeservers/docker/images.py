"""The images of a Docker engine: whether it has them, and pulling those that it does not have."""

import asyncio
import logging
from typing import Any

from trafficlight.errors import DeployError
from trafficlight.homeservers.docker.answers import Answers
from trafficlight.homeservers.docker.errors import EngineSilentError, engine_errors
from trafficlight.homeservers.tools import Progress

logger = logging.getLogger(__name__)

_ANSWER_SECONDS = 15
_SILENCE_SECONDS = 300  # between two lines of a pull's progress


class EngineImages:
    """The images that one engine is to have.

    :param url: where it is, for messages.
    :param answers: what is coming from it.
    """

    def __init__(self, url: str, answers: Answers) -> None:
        #: What it is to have whenever it comes, and who is told of a pull.
        self.wanted: dict[str, Progress] = {}
        self._url = url
        self._answers = answers
        self._filling: asyncio.Task[None] | None = None

    @property
    def filling(self) -> bool:
        """Whether some of them may still come."""
        return self._filling is not None and not self._filling.done()

    async def ensure(self, docker: Any, image: str, progress: Progress) -> None:
        """Pull an image that the engine does not have.

        :param docker: the engine's client.
        :raises EngineSilentError: it does not say whether it has it, or nothing more while it pulls it.
        :raises DeployError: it cannot be had.
        """
        # It may also answer with what is no JSON.
        errors: tuple[type[Exception], ...] = (*engine_errors(), ValueError)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await docker.images.inspect(image)
                return
        except TimeoutError as error:
            raise EngineSilentError(f"the Docker engine {self._url} does not tell of {image}") from error
        except errors:
            progress(f"{self._url}: pulling {image}")
        try:
            await self._pull(docker, image)
        except TimeoutError as error:
            raise EngineSilentError(f"the Docker engine {self._url} falls silent pulling {image}") from error
        except errors as error:
            raise DeployError(
                f"the engine {self._url} has no image {image} and cannot pull it: {error}"
            ) from error

    def fill(self, docker: Any) -> None:
        """Begin to let the engine have what it is to have, until :meth:`stop`. Idempotent."""
        if self.wanted and not self.filling:
            self._filling = asyncio.create_task(self._fill(docker), name=f"images for {self._url}")

    async def stop(self) -> None:
        """End what :meth:`fill` began. Idempotent."""
        filling, self._filling = self._filling, None  # it may begin anew while this one ends
        if filling is not None:
            filling.cancel()
            await asyncio.wait([filling])

    async def _fill(self, docker: Any) -> None:
        tried: set[str] = set()
        while left := [image for image in self.wanted if image not in tried]:  # some are named meanwhile
            try:
                await self.ensure(docker, left[0], self.wanted[left[0]])
            except EngineSilentError as error:  # until it speaks it is of no use
                logger.warning("%s", error.message)
                continue
            except DeployError as error:  # there may be others that it has
                logger.warning("%s", error.message)
            tried.add(left[0])

    async def _pull(self, docker: Any, image: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_SILENCE_SECONDS) as limit:
                async for _ in docker.images.pull(image, stream=True):
                    limit.reschedule(loop.time() + _SILENCE_SECONDS)
        except BaseException:
            self._answers.hang_up_ours()
            raise
