"""What adapters raise, and what ends their process."""

from trafficlight.errors import LabError, TrafficlightError


class ActionFailed(TrafficlightError):  # noqa: N818 - an outcome, not a defect of the program
    """The client did the wrong thing: the case fails.

    The message says what was expected and what was seen instead.
    """


class UnsupportedActionError(TrafficlightError):
    """This adapter does not support the action; that says nothing about the client."""


class ReportedError(TrafficlightError):
    """An error that a program behind this adapter reports; it is passed on without a stack trace.

    :param details: what went wrong, in full.
    :param kind: ``action``, the client did the wrong thing; ``unsupported``; anything else is the program's
        own fault.
    :param path: where it went wrong.
    """

    def __init__(self, details: str, *, kind: str = "adapter", path: str = "") -> None:
        self.kind = kind if kind in ("action", "unsupported") else "adapter"
        self.path = path
        super().__init__(details)


class RegistrationRefusedError(LabError):
    """The coordinator refused the registration; a retry would not help.

    :param status: the HTTP status of its answer.
    :param reason: what it said.
    """

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        hint = " (is the registration token right?)" if status == 401 else ""
        super().__init__(f"the coordinator refused the registration: {status} {reason}{hint}")


class CoordinatorUnreachableError(LabError):
    """The coordinator did not answer within the configured time.

    :param url: where it was expected.
    :param seconds: how long it was tried.
    :param trouble: what happened at the last try.
    """

    def __init__(self, url: str, seconds: float, trouble: str) -> None:
        self.url = url
        self.seconds = seconds
        self.trouble = trouble
        super().__init__(f"no answer from {url} for {seconds:.0f} s: {trouble}")


class RegistrationLostError(LabError):
    """The coordinator does not know this uuid (any more): register under a new one."""
