// Chromium with one page, whose files it gets from this process.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

// What the page stores belongs to its origin: the port must not be a part of it.
const HOST = "client.localhost";
// The host waits a little longer.
const START_MS = 110_000;
const TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
};
const OPTIONS = [
    "--headless=new",
    "--remote-debugging-port=0",
    "--window-size=1280,960",
    "--disable-background-networking",
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-breakpad",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-quic",
    "--disable-renderer-backgrounding",
    "--disable-sync",
    "--force-prefers-reduced-motion",
    "--hide-crash-restore-bubble",
    "--log-level=3",
    "--no-default-browser-check",
    "--no-first-run",
    "--password-store=basic",
    "--use-mock-keychain",
    // Its sandbox does not work for root.
    ...(process.getuid?.() === 0 ? ["--no-sandbox"] : []),
];

// Its own temporary folder is for sockets, whose paths must be short.
const ENVIRONMENT = { ...process.env };

export class Browser {
    #app;
    #executable;
    #profile;
    #saved;
    #port;
    #process;
    #tracing;
    /** The page, with the client loaded. */
    page;

    /**
     * Keeps what the page stores in a folder.
     *
     * @param app What the page is: `html`, the `folders` that its files are in, and the selector of an element that
     *     shows that it is `ready`; perhaps more `options` of Chromium, and a `script` that runs first in each frame.
     */
    constructor(app, executable, folder) {
        this.#app = app;
        this.#executable = executable;
        this.#profile = join(folder, "profile");
        this.#saved = join(folder, "local-storage.json");
        // For what Playwright writes, which is to disappear with the folder if this process is killed.
        process.env.TMPDIR = join(folder, "temporary");
    }

    async start() {
        await mkdir(process.env.TMPDIR, { recursive: true });
        if (this.#port === undefined) {
            const server = createServer((...exchange) => this.#serve(...exchange)).listen(0, "127.0.0.1");
            await once(server, "listening");
            this.#port = server.address().port;
        }
        const rule = `--host-resolver-rules=MAP ${HOST} 127.0.0.1:${this.#port}`;
        const options = [...OPTIONS, ...(this.#app.options ?? []), `--user-data-dir=${this.#profile}`, rule, "about:blank"];
        // Not by Playwright: it would put Chromium into another process group than the host acts on.
        this.#process = spawn(this.#executable, options, { env: ENVIRONMENT, stdio: ["ignore", "ignore", "pipe"] });
        this.#process.on("error", (error) => this.#lost(error.message));
        this.#process.on("exit", (code, signal) => this.#lost(`Chromium exited (${signal ?? code})`));
        const address = await new Promise((found) => {
            createInterface({ input: this.#process.stderr }).on("line", (line) => {
                const [, url] = /^DevTools listening on (ws:.*)/.exec(line) ?? [];
                url ? found(url) : console.error(line);
            });
        });
        const [context] = (await chromium.connectOverCDP(address)).contexts();
        this.page = context.pages()[0] ?? (await context.newPage());
        this.page.setDefaultTimeout(START_MS);
        this.page.on("console", (message) => {
            if (message.type() !== "debug") console.error(`console.${message.type()}: ${message.text()}`);
        });
        this.page.on("pageerror", (error) => console.error(`page: ${error.stack}`));
        if (this.#app.script) await context.addInitScript(this.#app.script);
        const saved = await readFile(this.#saved, "utf8").catch(() => undefined);
        if (saved) {
            await this.page.goto(`http://${HOST}/nothing`);
            await this.page.evaluate((saved) => Object.assign(localStorage, JSON.parse(saved)), saved);
        }
        await this.page.goto(`http://${HOST}/`, { waitUntil: "commit" });
        await this.ready();
        this.#tracing = context.tracing;
        await this.#tracing.start({ snapshots: true });
        await this.#tracing.startChunk();
    }

    /** Wait until the page shows a way to log in, or what is logged in. */
    async ready() {
        await this.page.waitForSelector(this.#app.ready).catch(async ({ message }) => {
            const shown = await this.page.innerText("body", { timeout: 2000 }).catch(() => "nothing");
            throw new Error(`${message}\nThe page shows: ${shown}`);
        });
    }

    /** Leave a screenshot and a trace of all since the last one in a folder. */
    async leaveEvidence(folder, name) {
        await this.page.screenshot({ path: join(folder, `${name}.png`) });
        await this.#tracing.stopChunk({ path: join(folder, `${name}.trace.zip`) });
        await this.#tracing.startChunk();
    }

    /** Write the page's local storage, which Chromium writes seconds later, to a file. */
    async save() {
        await writeFile(this.#saved, await this.page.evaluate(() => JSON.stringify(localStorage)));
    }

    async stop() {
        const running = this.#process;
        this.#process = undefined;
        if (running?.kill()) await once(running, "exit");
    }

    async #serve({ url }, response) {
        const path = new URL(url, `http://${HOST}`).pathname;
        // A service worker may ask for index.html where the page asks for /.
        const isPage = ["/", "/index.html"].includes(path);
        response.setHeader("content-type", TYPES[isPage ? ".html" : extname(path)] ?? "application/octet-stream");
        if (isPage) return response.end(this.#app.html);
        for (const folder of this.#app.folders) {
            const content = await readFile(new URL(folder + path, import.meta.url)).catch(() => undefined);
            if (content) return response.end(content);
        }
        // Not a download.
        response.writeHead(404, { "content-type": "text/plain" }).end("not found");
    }

    #lost(why) {
        if (this.#process === undefined) return;
        console.error(why);
        process.exit(1);
    }
}
