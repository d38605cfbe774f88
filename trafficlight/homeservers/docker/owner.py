"""Labels that name the lab that owns a container or network, and the removal of what a dead lab left."""

import contextlib
import json
import logging
import os
import secrets
import time
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

LABEL = "trafficlight.owner"
_EXPIRES = "trafficlight.expires"
# No case takes longer: what is older belongs to a lab that died, on whichever machine that ran.
_LIFETIME_SECONDS = 6 * 3600


class Owner:
    """This process, as its labels identify it to other labs on the same engine."""

    def __init__(self) -> None:
        pid = os.getpid()
        self.id = f"{_pid_namespace()}/{pid}/{_started(pid)}/{secrets.token_hex(4)}"

    def labels(self, case_id: str, role: str = "") -> dict[str, str]:
        """Return the labels for a container or network that is created now."""
        labels = {
            LABEL: self.id,
            _EXPIRES: str(int(time.time()) + _LIFETIME_SECONDS),
            "trafficlight.case": case_id,
        }
        return labels | ({"trafficlight.role": role} if role else {})


def is_orphan(labels: Mapping[str, str]) -> bool:
    """Return whether the owner of these labels is dead, or they are too old."""
    namespace, _, rest = labels.get(LABEL, "").partition("/")
    pid, _, started = rest.partition("/")
    if namespace == _pid_namespace() and pid.isdecimal():
        return started.partition("/")[0] != _started(int(pid))
    try:
        return time.time() > int(labels[_EXPIRES])
    except (KeyError, ValueError):
        return False  # not a lab's


async def reclaim(docker: Any, url: str, owner: str, wanted: Container[str]) -> None:
    """Remove the containers and networks of dead owners, and this owner's that could not be removed before.

    :param docker: the engine's client.
    :param url: the engine's URL, for the log.
    :param owner: this owner's id.
    :param wanted: the ids of this owner's that are in use.
    """
    from aiodocker.exceptions import DockerError

    def left_behind(id: str, labels: dict[str, str]) -> bool:
        return is_orphan(labels) or (labels.get(LABEL) == owner and id not in wanted)

    filters = {"label": [LABEL]}
    for container in await docker.containers.list(all=1, filters=json.dumps(filters)):
        if left_behind(container.id, container["Labels"]):
            logger.info("%s: removing %s, left behind by a lab", url, container["Names"][0])
            with contextlib.suppress(DockerError):  # another lab was faster
                await container.delete(force=True, v=True)
    for network in await docker.networks.list(filters=filters):
        if left_behind(network["Id"], network["Labels"]):
            with contextlib.suppress(DockerError):
                await (await docker.networks.get(network["Id"])).delete()


def _pid_namespace() -> str:
    """Return what identifies a pid namespace: one boot of one machine, and one container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"{os.uname().nodename}-"  # not Linux: only the age shows whether an owner is dead


def _started(pid: int) -> str:
    """Return when a process started, in ticks since the boot; empty if there is none. Pids are reused."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
