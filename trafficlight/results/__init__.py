"""What a session leaves behind: the journal, and everything that is derived from it."""
