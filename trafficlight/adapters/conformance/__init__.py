"""Check any adapter, in any language, against the wire: start it on a scripted coordinator and watch."""

from trafficlight.adapters.conformance.check import check
from trafficlight.adapters.conformance.results import (
    CheckOptions,
    Finding,
    Homeserver,
    Level,
    Results,
    render,
)
from trafficlight.adapters.conformance.scripted import Reply, ScriptedAdapter, ScriptedCoordinator, Upload

__all__ = [
    "CheckOptions",
    "Finding",
    "Homeserver",
    "Level",
    "Reply",
    "Results",
    "ScriptedAdapter",
    "ScriptedCoordinator",
    "Upload",
    "check",
    "render",
]
