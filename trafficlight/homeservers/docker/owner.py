"""Whose containers and networks those are, and whether their owner still lives."""

import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path

LABEL = "trafficlight.owner"
_EXPIRES = "trafficlight.expires"
#: No case lasts longer. What is older has lost its owner, wherever that ran.
_LIFETIME_SECONDS = 6 * 3600


class Owner:
    """This process, as its labels tell it to others that use the same engine."""

    def __init__(self) -> None:
        pid = os.getpid()
        self.id = f"{_place()}/{pid}/{_started(pid)}/{secrets.token_hex(4)}"

    def labels(self, case_id: str, role: str = "") -> dict[str, str]:
        """Return the labels for something that is made now."""
        labels = {
            LABEL: self.id,
            _EXPIRES: str(int(time.time()) + _LIFETIME_SECONDS),
            "trafficlight.case": case_id,
        }
        return labels | ({"trafficlight.role": role} if role else {})


def is_orphan(labels: Mapping[str, str]) -> bool:
    """Return whether nobody will remove what carries these labels: its process is dead, or it is too old."""
    place, _, rest = labels.get(LABEL, "").partition("/")
    pid, _, started = rest.partition("/")
    if place == _place() and pid.isdecimal():
        return started.partition("/")[0] != _started(int(pid))
    try:
        return time.time() > int(labels[_EXPIRES])
    except (KeyError, ValueError):
        return False  # not ours


def _place() -> str:
    """Return what tells apart where pids mean something: one boot of one machine, one container on it."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}-{os.stat('/proc/self/ns/pid').st_ino}"
    except OSError:
        return f"{os.uname().nodename}-"  # not Linux: owners are told apart by age only


def _started(pid: int) -> str:
    """Return when a process began, in ticks since the boot: pids are reused. Empty where there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
