"""Pickles of a list of classes and of plain values, and of nothing else: for what comes out of test code."""

import io
import pickle
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any

# Plain values that pickles name; all others are written without a name.
_PLAIN = (str, int, float, complex)
# Where the standard library's paths are, in one version of Python or another.
_PATHS = ("pathlib", "pathlib._local")


class Classes:
    """The classes of which instances may be pickled and read.

    :param known: every single one; their subclasses are not meant.
    """

    def __init__(self, known: Iterable[type]) -> None:
        self.known = frozenset((*known, *_PLAIN))
        self.named: Mapping[tuple[str, str], type] = {
            (module, one.__qualname__): one
            for one in self.known
            for module in (_PATHS if one.__module__ in _PATHS else (one.__module__,))
        }


def dumped(value: object, classes: Classes) -> bytes:
    """Return a value as a pickle. Texts and numbers of a class of their own become plain ones.

    :raises TypeError: there is something else in it.
    """
    raw = io.BytesIO()
    _Pickler(raw, classes).dump(value)
    return raw.getvalue()


def loaded(raw: bytes, classes: Classes) -> Any:
    """Return what a pickle holds. Nothing is imported for it, and nothing called but those classes.

    :raises pickle.UnpicklingError: there is something else in it, or it is none; the message says what.
    """
    unpickler = _Unpickler(raw, classes)
    try:
        return unpickler.load()
    except pickle.UnpicklingError as error:
        problem = str(error)
    except Exception as error:  # a pickle that is broken can raise anything
        problem = f"{type(error).__name__}: {error}"
    raise pickle.UnpicklingError(f"{unpickler.begun or f'{len(raw)} bytes'}: {problem}")


class _Pickler(pickle.Pickler):
    def __init__(self, raw: io.BytesIO, classes: Classes) -> None:
        super().__init__(raw)
        self._known = classes.known

    def reducer_override(self, value: object) -> Any:
        kind = type(value)
        if kind in self._known:
            return (kind, (value.value,)) if isinstance(value, Enum) else NotImplemented
        if isinstance(value, type) and value in self._known:
            return NotImplemented
        match value:
            case str():
                return str, (str.__str__(value),)
            case int():
                return int, (int.__int__(value),)
            case float():
                return float, (float.__float__(value),)
            case _:
                named = value if isinstance(value, type) else kind
                raise TypeError(f"{named.__module__}.{named.__qualname__} is none of what a worker can send")


class _Unpickler(pickle.Unpickler):
    def __init__(self, raw: bytes, classes: Classes) -> None:
        super().__init__(io.BytesIO(raw))
        self._named = classes.named
        #: What the pickle begins with, for people; empty where it is nothing that is known.
        self.begun = ""

    def find_class(self, module: str, name: str) -> type:
        found = self._named.get((module, name))
        if found is None:
            raise pickle.UnpicklingError(f"{module}.{name} is none of what a worker can send")
        self.begun = self.begun or f"a {name}"
        return found
