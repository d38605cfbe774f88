"""A driver: a client that only remembers what it was asked to send."""

import json
import sys

timeline = []
print(
    json.dumps({"type": "my-client", "version": "1.0", "actions": ["send_message", "get_timeline"]}),
    flush=True,
)
for line in sys.stdin:
    asked, answer = json.loads(line), {}
    if asked["action"] == "send_message":
        timeline.append({"user": "@me:here", "message": asked["data"]["message"]})
        answer["response"] = "sent"
    elif asked["action"] == "get_timeline":
        answer["response"] = {"timeline": timeline}
    else:
        answer["error"] = {"type": "unsupported", "details": "this client only sends"}
    print(json.dumps({"id": asked["id"], **answer}), flush=True)
