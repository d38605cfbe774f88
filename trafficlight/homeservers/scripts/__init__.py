"""Scripts that run in a process of their own, by path; they import nothing of trafficlight."""
