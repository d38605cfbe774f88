"""An adapter in 30 lines: a client that only remembers what it was asked to send."""

import json
import sys
import uuid
from contextlib import suppress
from urllib.error import HTTPError
from urllib.request import Request, urlopen

URL = f"{sys.argv[1]}/client/{uuid.uuid4()}"


def call(path, body=None):
    data = body and json.dumps(body).encode()
    request = Request(f"{URL}/{path}", data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=40) as answer:
        return json.load(answer)


def send_message(data):
    timeline.append({"user": "@me:here", "message": data["message"]})
    return {"response": "sent"}


timeline = []
actions = {"send_message": send_message, "get_timeline": lambda data: {"timeline": timeline}}
call("register", {"type": "my-client", "version": "1.0", "actions": list(actions)})
while (message := call("poll"))["action"] != "exit":
    if (action := message["action"]) == "idle":
        continue
    try:
        path, body = "respond", {"id": message["id"], **actions[action](message["data"])}
    except Exception as error:
        kind = "action" if action in actions else "unsupported"
        path, body = "error", {"error": {"type": kind, "path": action, "details": f"{action}: {error!r}"}}
    with suppress(HTTPError):  # an answer that comes too late is refused with 409: poll again
        call(path, body)
