"""The adapter for matrix-nio: a real Matrix client with real end-to-end encryption, in Python."""
