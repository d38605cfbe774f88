"""The signature of a failure: what its message says, without what differs from run to run.

Two failures with one signature probably have one cause: the cases of a session are grouped by it, and the
history tells known failures from new ones by it.
"""

import re

from trafficlight.text import single_line

_LONGEST = 200
"""Characters of a signature."""

_READ = 2_000  # characters of a message's first line that are looked at
_HOST = r"(?:\[[0-9a-fA-F:.]+\]|[\w.-]+)(?::\d+)?"
_DIRECTORIES = "Users|builds|home|opt|private|root|run|srv|tmp|usr|var|workspace"

# In this order: what is part of something larger comes after it.
_VARIABLE = re.compile(
    "|".join(
        f"(?P<{name}>{pattern})"
        for name, pattern in {
            "time": r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?",
            "server": rf"(?<=://){_HOST}",
            "user": rf"@[\w.=/+-]+:{_HOST}",
            "alias": rf"#[\w.=/+-]+:{_HOST}",
            "room": rf"!(?:[\w.=/+-]+:{_HOST}|[\w-]{{43}})",
            "event": rf"\$(?:[\w.=/+-]+:{_HOST}|[\w/+-]{{43}})",
            "path": rf"(?<![\w/.>-])/(?:{_DIRECTORIES})(?:/[^\s/'\":,;()<>]+)*(?=/)",
            "id": r"%(?:21|23|24|40)[\w.~%-]+"
            r"|(?<!\w)0x[0-9a-fA-F]+"
            r"|(?<![\w>])[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![\w<])"
            # Digests, tokens and keys; the names of devices.
            r"|(?<![\w>+/-])(?=[\w+/-]*\d)(?=[\w+/-]*[A-Za-z])[A-Za-z0-9_+/-]{16,}={0,2}(?![\w<])"
            r"|(?<![\w>])(?=[a-f]*\d)(?=\d*[a-f])[0-9a-f]{7,}(?![\w<])"
            r"|(?<![\w>])(?=\d*[A-Z])[A-Z0-9]{10}(?![\w<])",
            # Also versions, addresses with ports, clock times, 1,000 and 1e-05.
            "n": r"\d+(?:[.,:]\d+)*(?:[eE][+-]?\d+(?!\w))?",
        }.items()
    )
)


# Of the machine, not of the cause.
_NOTE = re.compile(r"; the coordinator stood still for \S+ s(?=;|$)")


def signature(message: str) -> str:
    """Return what the first line of a verdict's message says, with placeholders for what varies.

    Numbers, times, ports, hosts of URLs, Matrix ids, directories, digests and device names become ``<n>``,
    ``<time>``, ``<user>`` and so on. Names of roles, actions and errors stay, and so does quoted text.

    :param message: of a case or an attempt; any text.
    :return: one line without digits, at most 200 characters; empty if the message is. The signature of a
        signature is itself.
    """
    line = _NOTE.sub("", " ".join(single_line(message, _READ).split()))
    return _VARIABLE.sub(lambda found: f"<{found.lastgroup}>", line)[:_LONGEST].rstrip()
