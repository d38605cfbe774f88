// The driver of matrix-js-sdk: reads one JSON object per line, performs it, writes one per line.
import "./environment.mjs";
import { createInterface } from "node:readline";
import { MatrixClient, Unsupported, limitWaits, version } from "./client.mjs";

const client = new MatrixClient(process.env.TRAFFICLIGHT_STORAGE);
const write = (message) => process.stdout.write(JSON.stringify(message) + "\n");

await client.resume();
write({ type: "js-sdk", version, actions: client.actions });

for await (const line of createInterface({ input: process.stdin })) {
    const { id, action, data, deadline } = JSON.parse(line);
    limitWaits(deadline);
    try {
        write({ id, response: (await client.perform(action, data ?? {})) ?? action });
    } catch (error) {
        console.error(error);
        const type = error instanceof Unsupported ? "unsupported" : "action";
        write({ id, error: { type, details: error.message ?? String(error) } });
    }
}
process.exit(0);
