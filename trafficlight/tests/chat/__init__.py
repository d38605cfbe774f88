"""Chat: messages, invites, history, federation."""
