"""How many homeservers this machine can carry."""

import os

_SERVER_BYTES = 150 * 2**20
_RESERVE_BYTES = 512 * 2**20
_MOST = 8
_MOST_WARM = 4


def available_bytes() -> int:
    """Return the memory that can be used without swapping."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def default_capacity() -> int:
    """Return how many homeservers may run for cases at once: by memory, and four for each processor."""
    return max(1, min(_MOST, available_bytes() // _SERVER_BYTES, 4 * (os.cpu_count() or 1)))


def default_warm() -> int:
    """Return how many homeservers to keep started ahead: one for each processor, while memory allows."""
    return max(
        0, min(_MOST_WARM, os.cpu_count() or 1, (available_bytes() - _RESERVE_BYTES) // (2 * _SERVER_BYTES))
    )


def room_for_another() -> bool:
    """Return whether memory allows one more homeserver that no case has asked for yet."""
    return available_bytes() > _RESERVE_BYTES + _SERVER_BYTES
