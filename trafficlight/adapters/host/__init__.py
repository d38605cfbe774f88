"""Host drivers: programs in any language that drive a client by JSON lines on standard input and output."""

from trafficlight.adapters.host.adapter import serve_driver
from trafficlight.adapters.host.driver import DriverCommand

__all__ = ["DriverCommand", "serve_driver"]
