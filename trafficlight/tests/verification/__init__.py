"""Verification: emoji, mismatch, cancellation, trust, a new identity."""
