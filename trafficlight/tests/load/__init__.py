"""What clients notice while a homeserver is under load."""
