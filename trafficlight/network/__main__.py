"""The network proxy's process: ``python -m trafficlight.network SOCKET``."""

import asyncio
import sys
from pathlib import Path

from trafficlight.network.proxy import serve

asyncio.run(serve(Path(sys.argv[1])))
