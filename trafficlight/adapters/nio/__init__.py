"""The adapter for matrix-nio, a Matrix client in Python with end-to-end encryption."""
