"""Messages: edits, redactions, reactions, replies, threads, receipts, typing, files."""
