"""Compatibility alias for recipes: import from :mod:`trafficlight.processes`."""

from trafficlight.processes import Progress, child_environment, run_to_completion, run_tool

__all__ = ["Progress", "child_environment", "run_to_completion", "run_tool"]
