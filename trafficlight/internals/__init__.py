"""Doors for test files written for the original: they hand names on and hold no logic."""
