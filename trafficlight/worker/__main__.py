"""`python -m trafficlight.worker FD MEMORY`: started by the coordinator only."""

import sys

from trafficlight.worker.process import main

if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
