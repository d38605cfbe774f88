// A driver: a client that only remembers what it was asked to send.
import { createInterface } from "node:readline";

const timeline = [];
const say = (line) => console.log(JSON.stringify(line));
say({ type: "my-client", version: "1.0", actions: ["send_message", "get_timeline"] });
for await (const line of createInterface({ input: process.stdin })) {
  const { id, action, data } = JSON.parse(line);
  if (action === "send_message") {
    timeline.push({ user: "@me:here", message: data.message });
    say({ id, response: "sent" });
  } else if (action === "get_timeline") {
    say({ id, response: { timeline } });
  }
}
