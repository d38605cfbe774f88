// An adapter in 30 lines: a client that only remembers what it was asked to send.
import { randomUUID } from "node:crypto";

const url = `${process.argv[2]}/client/${randomUUID()}`;
const timeline = [];
const actions = {
  send_message(data) {
    timeline.push({ user: "@me:here", message: data.message });
    return { response: "sent" };
  },
  get_timeline: () => ({ timeline }),
};

async function call(path, body) {
  const sent = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(`${url}/${path}`, sent);
  if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`);
  return answer.json();
}

async function perform({ id, action, data }) {
  try {
    return ["respond", { id, ...(await actions[action](data)) }];
  } catch (error) {
    const type = Object.hasOwn(actions, action) ? "action" : "unsupported";
    return ["error", { error: { type, path: action, details: `${action}: ${error}` } }];
  }
}

await call("register", { type: "my-client", version: "1.0", actions: Object.keys(actions) });
for (let message = await call("poll"); message.action !== "exit"; message = await call("poll")) {
  if (message.action === "idle") continue;
  await call(...(await perform(message))).catch(console.error); // a late answer is refused with 409: poll again
}
