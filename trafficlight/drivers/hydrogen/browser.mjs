// Chromium with one page, whose files it gets from this process.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:http";
import { extname, join } from "node:path";
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

// What the page stores belongs to its origin: the port must not be a part of it.
const HOST = "hydrogen.localhost";
const HTML =
    '<!doctype html><meta charset="utf-8"><title>Hydrogen</title><link rel="stylesheet" ' +
    'href="assets/theme-element-light.css"><body class="hydrogen"><script type="module" src="page.js"></script>';
const PLACES = [
    "build",
    "node_modules/hydrogen-view-sdk/asset-build",
    "node_modules/hydrogen-view-sdk/lib-build",
    "node_modules/@matrix-org/olm",
].map((folder) => new URL(folder, import.meta.url));
const TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
};
const OPTIONS = [
    "--headless=new",
    "--remote-debugging-port=0",
    "--window-size=1280,720",
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
    "--hide-crash-restore-bubble",
    "--log-level=3",
    "--no-default-browser-check",
    "--no-first-run",
    "--password-store=basic",
    "--use-mock-keychain",
    // Its sandbox does not work for root.
    ...(process.getuid?.() === 0 ? ["--no-sandbox"] : []),
];

async function serve({ url }, response) {
    const path = new URL(url, `http://${HOST}`).pathname;
    // Its service worker asks for index.html where the page asks for /.
    const isPage = ["/", "/index.html"].includes(path);
    response.setHeader("content-type", TYPES[isPage ? ".html" : extname(path)] ?? "application/octet-stream");
    if (isPage) return response.end(HTML);
    for (const place of PLACES) {
        const content = await readFile(new URL(place + path)).catch(() => undefined);
        if (content) return response.end(content);
    }
    response.writeHead(404).end();
}

export class Browser {
    #executable;
    #profile;
    #saved;
    #port;
    #process;
    /** The page, with Hydrogen loaded. */
    page;

    /** Keeps what it stores in a folder. */
    constructor(executable, folder) {
        this.#executable = executable;
        this.#profile = join(folder, "profile");
        this.#saved = join(folder, "local-storage.json");
    }

    async start() {
        if (this.#port === undefined) {
            const server = createServer(serve).listen(0, "127.0.0.1");
            await once(server, "listening");
            this.#port = server.address().port;
        }
        const rule = `--host-resolver-rules=MAP ${HOST} 127.0.0.1:${this.#port}`;
        const options = [...OPTIONS, `--user-data-dir=${this.#profile}`, rule, "about:blank"];
        // Not by Playwright: it would put Chromium into another process group than the host acts on.
        this.#process = spawn(this.#executable, options, { stdio: ["ignore", "ignore", "pipe"] });
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
        this.page.on("console", (message) => {
            if (message.type() !== "verbose") console.error(`console.${message.type()}: ${message.text()}`);
        });
        this.page.on("pageerror", (error) => console.error(`page: ${error.stack}`));
        const saved = await readFile(this.#saved, "utf8").catch(() => undefined);
        if (saved) {
            await this.page.goto(`http://${HOST}/sw.js`);
            await this.page.evaluate((saved) => Object.assign(localStorage, JSON.parse(saved)), saved);
        }
        await this.page.goto(`http://${HOST}/`);
        await this.ready();
    }

    /** Wait until the page shows a way to log in, or what is logged in. */
    async ready() {
        await this.page.waitForSelector("#homeserver, .LeftPanel");
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

    #lost(why) {
        if (this.#process === undefined) return;
        console.error(why);
        process.exit(1);
    }
}
