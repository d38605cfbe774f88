"""`python -m trafficlight.worker PARENT_PID`: started by the coordinator only."""

import os
import sys

from trafficlight.worker.forks import main

if __name__ == "__main__":
    sys.path.append(os.getcwd())  # last: its packages must not shadow installed ones
    main(int(sys.argv[1]))
