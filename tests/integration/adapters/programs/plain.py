"""An adapter in plain Python with one action, `say`; its argument names the one thing that it does wrong."""

import http.client
import json
import os
import signal
import sys
import time
import uuid
from typing import Any, NoReturn
from urllib.parse import urlsplit

DEFECT = sys.argv[1] if len(sys.argv) > 1 else ""
HOST = urlsplit(os.environ["TRAFFICLIGHT_URL"]).netloc
FIXED = str(uuid.uuid4())


def call(
    method: str, path: str, body: Any = None, timeout: float = 60, media_type: str = "application/json"
) -> tuple[int, Any]:
    """Send a request, with retries until there is an answer, and return status and JSON."""
    while True:
        connection = http.client.HTTPConnection(HOST, timeout=timeout)
        try:
            payload = None if body is None else json.dumps(body)
            connection.request(method, path, payload, {"Content-Type": media_type} if payload else {})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        except (ConnectionError, http.client.HTTPException):
            if DEFECT == "dies-on-restart":
                sys.exit(1)
            time.sleep(0.05)
        finally:
            connection.close()


def poll(base: str) -> tuple[int, Any]:
    """Poll, as impatiently as the defect says."""
    while True:
        try:
            return call("GET", f"{base}/poll?wait=20", timeout=0.1 if DEFECT == "gives-up-poll" else 60)
        except TimeoutError:
            continue


def answer_say(base: str, action_id: str, count: int) -> int:
    """Answer the action and return the status."""
    body: Any = {"response": "say", "id": action_id, "count": count}
    if DEFECT == "wrong-id":
        body["id"] = "1"
    elif DEFECT in ("no-id", "old"):
        del body["id"]
    elif DEFECT == "no-object":
        body = ["say"]
    elif DEFECT == "says-error":
        body["response"] = "error"
    elif DEFECT == "polls-while-busy":
        for _ in range(6):
            call("GET", f"{base}/poll?wait=0")
    status, _ = call("POST", f"{base}/respond", body)
    if DEFECT == "answers-twice":
        call("POST", f"{base}/respond", body)
    return status


def unknown(base: str, action: str) -> bool:
    """Do something about an action that there is not; return whether this life is over."""
    if DEFECT == "silent-about-unknown":
        hang()
    if DEFECT in ("spins-on-unknown", "old"):
        return False
    if DEFECT == "claims-unknown":
        call("POST", f"{base}/respond", {"response": action})
        return False
    kind = "action" if DEFECT == "blames-client" else "adapter"
    error: Any = {"type": kind, "path": "plain.py", "details": f"unknown action {action}"}
    call("POST", f"{base}/error", {"error": "broken" if DEFECT == "bad-report" else error})
    return True


def hang() -> NoReturn:
    """Do nothing more."""
    while True:
        time.sleep(60)


def live() -> None:
    """Live from a registration to an exit."""
    base = f"/client/{FIXED if DEFECT == 'keeps-uuid' else uuid.uuid4()}"
    registration: Any = {"type": "plain", "version": "1", "actions": ["say"]}
    if DEFECT == "no-type":
        del registration["type"]
    media_type = "text/plain" if DEFECT == "no-media-type" else "application/json"
    call(
        "POST", f"{base}/register", ["plain"] if DEFECT == "no-body" else registration, media_type=media_type
    )
    if DEFECT == "never-polls":
        hang()
    answered: dict[str, int] = {}
    while True:
        status, message = poll(base)
        if status == 404 and DEFECT != "never-registers-again":
            return
        action = message.get("action")
        if action == "idle":
            if DEFECT == "polls-once":
                hang()
            time.sleep(message["data"]["delay"] / 1000)
        elif action == "exit":
            if DEFECT == "polls-after-exit":
                continue
            if DEFECT in ("ends-on-exit", "old"):
                sys.exit(0)
            if DEFECT == "stays-after-exit":
                hang()
            if DEFECT == "starts-slowly":
                time.sleep(2)
            return
        elif action == "say":
            if DEFECT == "never-answers":
                hang()
            fresh = len(answered) + 1
            count = fresh if DEFECT == "performs-again" else answered.setdefault(message["id"], fresh)
            answered.setdefault(f"{message['id']} {fresh}", count)
            refused = answer_say(base, message["id"], count) != 200
            if refused and DEFECT in ("dies-on-409", "old"):
                sys.exit(1)
            if refused and DEFECT == "blames-409":
                call("POST", f"{base}/error", {"error": {"type": "action", "details": "say: 409"}})
        elif action is None:
            time.sleep(0.05)
        elif unknown(base, action):
            return


if DEFECT == "crashes":
    sys.exit("no display")
if DEFECT == "ignores-sigterm":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    live()
