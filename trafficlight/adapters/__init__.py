"""Programs that register with a coordinator and drive one client each.

They know the coordinator over HTTP only, and import nothing of trafficlight above its wire.
"""
