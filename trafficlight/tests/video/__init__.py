"""Calls: the suites for video go here."""
