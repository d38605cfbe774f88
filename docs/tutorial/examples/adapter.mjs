// An adapter in 30 lines: a client that only remembers what it was asked to send.
import { randomUUID } from "node:crypto";

const url = `${process.argv[2]}/client/${randomUUID()}`;
const timeline = [];

async function call(path, body) {
  const sent = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(`${url}/${path}`, sent);
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

function perform(action, data) {
  if (action === "send_message") {
    timeline.push({ user: "@me:here", message: data.message });
    return { response: "sent" };
  }
  if (action === "get_timeline") return { timeline };
  throw new Error(`this client cannot ${action}`);
}

await call("register", { type: "my-client", version: "1.0", actions: ["send_message", "get_timeline"] });
for (let message = await call("poll"); message.action !== "exit"; message = await call("poll")) {
  if (message.action === "idle") continue;
  try {
    await call("respond", { id: message.id, ...perform(message.action, message.data) });
  } catch (error) {
    await call("error", { error: { type: "action", path: message.action, details: String(error) } });
  }
}
