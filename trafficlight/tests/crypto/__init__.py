"""Encryption: who gets room keys and when they change, one-time keys, devices, trust, recovery."""
