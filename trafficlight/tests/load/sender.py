"""Sends messages to a room at a rate: one process on each node, with the standard library only.

Reads its options from ``sender.json``, and prints a line of JSON for each message.
"""

import json
import sys
import time
from http.client import HTTPConnection, HTTPSConnection
from pathlib import Path
from urllib.parse import quote, urlsplit


def main() -> None:
    """Send messages until the time is up, or all are sent."""
    options = json.loads(Path("sender.json").read_text(encoding="utf-8"))
    target = urlsplit(options["target"])
    line = (HTTPSConnection if target.scheme == "https" else HTTPConnection)(target.netloc, timeout=30)
    headers = {"Authorization": f"Bearer {options['token']}", "Content-Type": "application/json"}
    room = f"{target.path}/_matrix/client/v3/rooms/{quote(options['room'], safe='')}"
    began = time.monotonic()
    for number in range(round(options["rate"] * options["seconds"])):
        due = began + number / options["rate"]
        time.sleep(max(0.0, due - time.monotonic()))
        if time.monotonic() > began + options["seconds"]:
            break
        body = json.dumps({"msgtype": "m.text", "body": f"Message {number}"})
        line.request("PUT", f"{room}/send/m.room.message/{number}", body, headers)
        answer = line.getresponse()
        answer.read()
        # Since it was due: a message that waited for the one before it is late, too.
        took = {"at": time.time(), "seconds": time.monotonic() - due, "status": answer.status}
        sys.stdout.write(json.dumps(took) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
