"""What an adapter raises, and what may end its process."""

from trafficlight.errors import LabError, TrafficlightError


class ActionFailed(TrafficlightError):  # noqa: N818 - an outcome, not a defect of the program
    """The client did the wrong thing: the case is to end as a failure.

    :param message: what was expected and what was seen instead.
    """

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


class UnsupportedActionError(TrafficlightError):
    """This adapter cannot do what it was asked to; nothing can be said about the client.

    :param message: what was asked, and what this adapter can do instead.
    """

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


class RegistrationRefusedError(LabError):
    """The coordinator does not want this adapter, and asking again would not help.

    :param status: the HTTP status of its answer.
    :param reason: what it said.
    """

    def __init__(self, status: int, reason: str) -> None:
        self.status = status
        self.reason = reason
        hint = " (is the registration token right?)" if status == 401 else ""
        super().__init__(f"the coordinator refused the registration: {status} {reason}{hint}")


class CoordinatorUnreachableError(LabError):
    """The coordinator did not answer for as long as this adapter was told to try.

    :param url: where it was expected.
    :param seconds: for how long it was tried.
    :param trouble: what happened at the last try.
    """

    def __init__(self, url: str, seconds: float, trouble: str) -> None:
        self.url = url
        self.seconds = seconds
        self.trouble = trouble
        super().__init__(f"no answer from {url} for {seconds:.0f} s: {trouble}")


class RegistrationLostError(LabError):
    """The coordinator does not know this uuid (any more): it is time for a new one.

    :param reason: how it said so.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(f"the registration is gone: {reason}")
