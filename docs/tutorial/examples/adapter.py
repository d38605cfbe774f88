"""An adapter in 30 lines: a client that only remembers what it was asked to send."""

import json
import sys
import uuid
from urllib.request import Request, urlopen

URL = f"{sys.argv[1]}/client/{uuid.uuid4()}"


def call(path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = Request(f"{URL}/{path}", data, {"Content-Type": "application/json"})
    with urlopen(request, timeout=40) as answer:
        return json.load(answer)


def perform(action, data):
    if action == "send_message":
        timeline.append({"user": "@me:here", "message": data["message"]})
        return {"response": "sent"}
    if action == "get_timeline":
        return {"timeline": timeline}
    raise NotImplementedError(f"this client cannot {action}")


timeline = []
call("register", {"type": "my-client", "version": "1.0", "actions": ["send_message", "get_timeline"]})
while (message := call("poll"))["action"] != "exit":
    if message["action"] == "idle":
        continue
    try:
        call("respond", {"id": message["id"], **perform(message["action"], message["data"])})
    except Exception as error:
        call("error", {"error": {"type": "action", "path": message["action"], "details": repr(error)}})
