"""Removes from an engine what nobody wants any more."""

import contextlib
import json
import logging
from collections.abc import Container
from typing import Any

from trafficlight.homeservers.docker.owner import LABEL, is_orphan

logger = logging.getLogger(__name__)


async def reclaim(docker: Any, url: str, owner: str, wanted: Container[str]) -> None:
    """Remove the containers and networks of dead owners, and ours that could not be removed before.

    :param docker: the engine's client.
    :param url: where it is, for the log.
    :param owner: who we are.
    :param wanted: the ids of ours that stay.
    """
    from aiodocker.exceptions import DockerError

    def left_behind(id: str, labels: dict[str, str]) -> bool:
        return is_orphan(labels) or (labels.get(LABEL) == owner and id not in wanted)

    filters = {"label": [LABEL]}
    for container in await docker.containers.list(all=1, filters=json.dumps(filters)):
        if left_behind(container.id, container["Labels"]):
            logger.info("%s: removing %s, which was left behind", url, container["Names"][0])
            with contextlib.suppress(DockerError):  # another lab was quicker
                await container.delete(force=True, v=True)
    for network in await docker.networks.list(filters=filters):
        if left_behind(network["Id"], network["Labels"]):
            with contextlib.suppress(DockerError):
                await (await docker.networks.get(network["Id"])).delete()
