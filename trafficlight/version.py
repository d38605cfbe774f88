"""The one place where the version of the installed package is read."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("trafficlight")
except PackageNotFoundError:  # a source tree that was never installed
    VERSION = "0.0.0"
