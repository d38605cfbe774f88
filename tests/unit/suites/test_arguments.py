"""What a test method receives, and how a worker comes by it."""

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from trafficlight.clients import ElementCallClient, MatrixClient, NetworkProxyClient
from trafficlight.suites.arguments import client_classes
from trafficlight.suites.imports import load_test_class
from trafficlight.suites.planning import plan

Write = Callable[..., Path]

FILE = """\
from __future__ import annotations
import typing
from trafficlight.internals.client import ElementCallClient, MatrixClient

if typing.TYPE_CHECKING:
    from nowhere import Something

class Call(ClientType):
    def name(self): return "Call"
    def match(self, adapter): return True

class Image:
    def name(self): return "Image"
    def complement_types(self): return ["image:1"]

class Colour:
    def __repr__(self): return "blue"

class A(Test):
    def __init__(self):
        self._client_under_test([Call()], "alice")
        self._client_under_test([Nio()], "bob")
        self._server_under_test(Image(), ["server"])
        self._network_proxy("proxy")

    @parametrize(colour=Colour())
    async def run(self, alice: ElementCallClient, bob, server, proxy: int, colour): ...

    def test_helper(self, message): ...
    async def test_other_helper(self, message): ...

class B(Test):
    clients = {"alice": Call}
    async def run(self, alice: Something): ...
"""


def test_the_type_or_else_the_annotation_decides(write: Write) -> None:
    path = write("a_test.py", FILE, prelude=False)
    path.write_text(
        FILE.replace("import typing\n", "import typing\nfrom trafficlight.test import Test\n"
        "from trafficlight.client_types import *\nfrom trafficlight.parameters import *\n"),
        encoding="utf-8",
    )  # fmt: skip
    found = plan([path])
    assert found.problems == ()
    first, second = found.cases
    assert first.id == ("a_test.py::A[alice=Call,bob=Nio,proxy=NetworkProxy,server=Image,colour=<blue>]")
    classes = client_classes(load_test_class(path, "A"), first)
    assert classes == {"alice": ElementCallClient, "bob": MatrixClient, "proxy": NetworkProxyClient}
    assert client_classes(load_test_class(path, "B"), second) == {"alice": MatrixClient}
    assert [spec.image for slot in first.servers for spec in slot.type.homeservers()] == ["image:1"]

    script = (
        "import pathlib, pickle, sys\n"
        "from trafficlight.suites.imports import load_test_class\n"
        f"cls = load_test_class(pathlib.Path({str(path)!r}), 'A')\n"
        "case = pickle.load(sys.stdin.buffer)\n"
        "assert type(case.parameters['colour']).__module__ == cls.__module__\n"
        "print(case.id)"
    )
    output = subprocess.run(
        [sys.executable, "-c", script], input=pickle.dumps(first), capture_output=True, check=True, cwd="/"
    )
    assert output.stdout.decode().strip() == first.id
