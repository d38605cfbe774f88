"""A driver whose client counts; it can also misbehave in every way that a driver can."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

STORAGE, EVIDENCE = Path(os.environ["TRAFFICLIGHT_STORAGE"]), Path(os.environ["TRAFFICLIGHT_EVIDENCE"])
MODE = sys.argv[1] if len(sys.argv) > 1 else ""


def say(line: object) -> None:
    print(line if isinstance(line, str) else json.dumps(line), flush=True)


def perform(id: int, action: str, data: dict[str, str]) -> object:
    if action == "count":
        kept = STORAGE / "count"
        kept.write_text(str(int(kept.read_text()) + 1 if kept.exists() else 1))
        return {"count": int(kept.read_text()), "pid": os.getpid()}
    if action == "reset":
        if MODE == "hangs":
            time.sleep(600)
        assert MODE != "remembers"
        (STORAGE / "count").unlink(missing_ok=True)
    if action == "echo":
        return data
    if action == "text":
        return "done"
    if action == "fail":
        raise AssertionError("expected 2 messages, saw 1")
    if action == "refuse":
        say({"id": id, "error": {"type": "unsupported", "details": "no camera"}})
    if action == "break":
        say({"id": id, "error": "the driver is broken"})
    if action == "answer":
        say({"id": id, **data})
    if action == "chatter":
        say("npm notice: new version")
        say('{"level": "info"}')
        say('{"id": 999, "response": {}}')
        say("[" * 100_000)
        sys.stdout.buffer.write(b"\xff\xfe\n")
        sys.stdout.write(f'{{"id": {id}, ')
        sys.stdout.flush()
        say('"response": {"heard": true}}')
    if action == "long":
        say("x" * (33 << 20))
    if action == "die":
        print("Error: out of dances", file=sys.stderr, flush=True)
        os._exit(7)
    if action == "die_later":
        say({"id": id, "response": {}})
        print("Error: out of dances", file=sys.stderr, flush=True)
        os._exit(7)
    if action == "leave_child":
        subprocess.Popen(["sleep", "600"])
        os._exit(8)
    if action == "browse":
        return {"browser": subprocess.Popen(["sleep", "600"], start_new_session=True).pid}
    if action == "picture":
        (EVIDENCE / "tiles").mkdir(exist_ok=True)
        (EVIDENCE / "tiles" / "1.png").write_bytes(b"png")
        (EVIDENCE / "trace.zip").write_bytes(b"zip")
        return {"videos": [{"snapshot": "tiles/1.png"}]}
    if action == "flood":
        os.write(2, b"".join(b"line %d\n" % number for number in range(2000)))
    if action == "film":
        (EVIDENCE / "a-video.mp4").write_bytes(b"long" * 100)
        (EVIDENCE / "b.png").write_bytes(b"png")
    if action == "odd_name":
        with open(os.fsencode(EVIDENCE) + b"/\xff.png", "wb") as file:
            file.write(b"png")
        return {"snapshot": "\udcff.png"}
    if action == "link":
        place = {"EVIDENCE": EVIDENCE, "STORAGE": STORAGE}[data["folder"]]
        shutil.rmtree(place)
        place.symlink_to(data["target"])
    if action == "replace_log":
        log = STORAGE.parent / "driver.log"
        log.unlink()
        {"mkfifo": os.mkfifo, "mkdir": os.mkdir, "symlink": lambda path: path.symlink_to(data["target"])}[
            data["kind"]
        ](log)
    if action == "hang":
        time.sleep(600)
    return None


ANSWERED = {"refuse", "break", "answer", "chatter", "long", "die_later"}

if MODE == "exit":
    sys.exit("Error: no browser here")
if MODE == "silent":
    time.sleep(600)
if MODE == "wrong":
    say({"type": 5})
if MODE == "list":
    say([1])
    time.sleep(600)
if MODE == "spare" and (marker := Path(sys.argv[2])).exists():
    sys.exit("Error: only once")
elif MODE == "spare":
    marker.touch()
if MODE == "chatty":
    print("hello", 5.5, '"text"', sep="\n", flush=True)
print("starting", file=sys.stderr, flush=True)
say(
    {
        "type": "counter",
        "version": "1.0",
        "labels": ["quick"],
        **({"reusable": True} if MODE in ("reusable", "hangs", "remembers") else {}),
    }
    | ({"actions": ["count", "fail", "die"]} if MODE == "declares" else {})
    | ({"actions": ["count", "reload"]} if MODE == "reloads" else {})
)
if MODE == "deaf":
    time.sleep(600)
for line in sys.stdin:
    message = json.loads(line)
    id, action, data = message["id"], message["action"], message["data"]
    try:
        response = perform(id, action, data)
    except AssertionError as error:
        say({"id": id, "error": {"type": "action", "path": "driver.py:1", "details": str(error)}})
        continue
    if action not in ANSWERED:
        say({"id": id, "response": response})
if MODE == "lingers":
    time.sleep(600)
print("the input ended", file=sys.stderr)
