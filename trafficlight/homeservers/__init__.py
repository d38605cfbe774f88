"""Homeservers for cases: providers are where they run, recipes what runs."""
