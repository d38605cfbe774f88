"""Key backup: written by one client, restored by another."""
