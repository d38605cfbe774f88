// The driver of a client in a browser: reads one JSON object per line, performs it, writes one per line.
import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { Browser } from "./browser.mjs";
import { Client, app } from "./client.mjs";
import { Unsupported } from "./user.mjs";

const [, , executable] = process.argv;
const { TRAFFICLIGHT_STORAGE: storage, TRAFFICLIGHT_EVIDENCE: evidence } = process.env;
const write = (message) => process.stdout.write(JSON.stringify(message) + "\n");

const browser = new Browser(app, executable, storage);
const client = new Client(browser);

async function reset() {
    await browser.stop();
    for (const name of await readdir(storage)) await rm(join(storage, name), { recursive: true });
    await browser.start();
}

process.on("SIGTERM", () => process.exit(0));
process.on("exit", () => browser.stop());
await browser.start();
const version = await browser.page.evaluate(() => app.version);
write({ ...app.registration, version, actions: client.actions, reusable: true });

for await (const line of createInterface({ input: process.stdin })) {
    const { id, action, data, deadline } = JSON.parse(line);
    const longest = Math.round(Math.min(app.longest, 0.9 * deadline) * 1000);
    browser.page.setDefaultTimeout(longest);
    // Its steps may take that long each; later than this, the host would not wait for evidence.
    const late = delay(1000 * 0.93 * deadline, undefined, { ref: false }).then(() => {
        throw new Error(`${action} is not done after ${Math.round(0.93 * deadline)} s`);
    });
    try {
        const performed = action === "reset" ? reset() : client.perform(action, data ?? {});
        const response = await Promise.race([performed, late]);
        await browser.save();
        write({ id, response: response ?? action });
    } catch (error) {
        console.error(error);
        await browser.leaveEvidence(evidence, `${action}-${id}`).catch(console.error);
        const type = error instanceof Unsupported ? "unsupported" : "action";
        write({ id, error: { type, details: error.message ?? String(error) } });
    }
}
await browser.stop();
process.exit(0);
