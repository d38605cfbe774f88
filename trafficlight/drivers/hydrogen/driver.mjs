// The driver of Hydrogen: reads one JSON object per line, performs it, writes one per line.
import { readFile, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { Browser } from "./browser.mjs";
import { HydrogenClient, Unsupported } from "./client.mjs";

const WAIT_S = 25;
const [, , executable] = process.argv;
const { TRAFFICLIGHT_STORAGE: storage, TRAFFICLIGHT_EVIDENCE: evidence } = process.env;
const write = (message) => process.stdout.write(JSON.stringify(message) + "\n");

const manifest = new URL("node_modules/hydrogen-view-sdk/package.json", import.meta.url);
const { version } = JSON.parse(await readFile(manifest, "utf8"));
const browser = new Browser(executable, storage);
const client = new HydrogenClient(browser);

async function reset() {
    await browser.stop();
    for (const name of await readdir(storage)) await rm(join(storage, name), { recursive: true });
    await browser.start();
}

process.on("SIGTERM", () => process.exit(0));
process.on("exit", () => browser.stop());
await browser.start();
write({ type: "hydrogen-web", version, actions: client.actions, reusable: true });

for await (const line of createInterface({ input: process.stdin })) {
    const { id, action, data, deadline } = JSON.parse(line);
    browser.page.setDefaultTimeout(Math.min(WAIT_S, 0.9 * deadline) * 1000);
    try {
        const response = await (action === "reset" ? reset() : client.perform(action, data ?? {}));
        await browser.save();
        write({ id, response: response ?? action });
    } catch (error) {
        console.error(error);
        await browser.page.screenshot({ path: join(evidence, `${action}-${id}.png`) }).catch(console.error);
        const type = error instanceof Unsupported ? "unsupported" : "action";
        write({ id, error: { type, details: error.message ?? String(error) } });
    }
}
await browser.stop();
process.exit(0);
