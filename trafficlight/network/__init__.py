"""The network between clients and homeservers: a recording reverse proxy, and what tests do to it."""
