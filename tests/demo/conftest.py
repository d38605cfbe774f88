"""The files here are run by trafficlight; pytest has nothing to collect in them."""

collect_ignore_glob = ["*_test.py"]
