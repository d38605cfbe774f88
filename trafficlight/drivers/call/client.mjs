// Element Call's user: an action returns when its effect is visible in the frame of the page, which page.js describes.
import { join } from "node:path";
import camera from "./camera.js";
import { Unsupported, User } from "./user.mjs";

const { TRAFFICLIGHT_EVIDENCE: evidence, TRAFFICLIGHT_LIVEKIT: livekit = "" } = process.env;

export const app = {
    registration: { type: "element-call" },
    html:
        '<!doctype html><meta charset="utf-8"><title>Call</title><style>html, body { height: 100%; margin: 0 } ' +
        "iframe { display: block; width: 100%; height: 100%; border: 0 }</style>" +
        `<body data-livekit="${livekit}"><script type="module" src="page.js"></script>`,
    folders: ["build", "node_modules/@element-hq", "node_modules/@element-hq/element-call-embedded/dist"],
    ready: "body.ready",
    longest: Infinity,
    options: [
        "--allow-loopback-in-peer-connection",
        "--autoplay-policy=no-user-gesture-required",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        // What is drawn costs the most; in one that is smaller, Element Call hides names.
        "--window-size=700,760",
    ],
    script: camera,
};

const COLOURS = { red: "rgb(255, 0, 0)", green: "rgb(0, 255, 0)", blue: "rgb(0, 0, 255)" };
const TILE = "[data-testid=videoTile]";
const JOIN = "[data-testid=lobby_joinCall]";

export class Client extends User {
    #pictures = 0;

    async perform(action, data) {
        const guest = action !== "set_display_name" && data.display_name !== undefined;
        if (guest) throw new Unsupported("Element Call as a widget has no guests");
        return super.perform(action, data);
    }

    // Account

    async register({ localpart, password, homeserver_url }) {
        await this.page.evaluate((all) => app.register(...all), [homeserver(homeserver_url), localpart, password]);
    }

    async login({ localpart, password, homeserver_url }) {
        await this.page.evaluate((all) => app.login(...all), [homeserver(homeserver_url), localpart, password]);
    }

    async logout() {
        await this.page.evaluate(() => app.logout());
    }

    async set_display_name({ display_name }) {
        await this.page.evaluate((name) => app.setDisplayName(name), display_name);
    }

    // Call

    async create_or_join({ call_name }) {
        const existing = await this.page.evaluate((name) => app.create(name), call_name);
        await this.#lobby();
        return { existing: String(existing) };
    }

    async join_by_url({ call_url }) {
        await this.page.evaluate((url) => app.join(url), call_url);
        await this.#lobby();
    }

    async lobby_join() {
        await this.#frame.locator(JOIN).click();
        await this.#until(([tile]) => app.joined() && app.present() && app.shows(tile), [TILE], "the call");
    }

    async leave_call() {
        await this.#click("leave");
        await this.#until(() => !app.open(), undefined, "the end of the call");
    }

    async reload() {
        const open = await this.page.evaluate(() => app.open());
        await super.reload();
        if (open) await this.#lobby();
    }

    async get_lobby_data() {
        const snapshot = this.#picture("lobby");
        await this.#frame.locator("video").screenshot({ path: join(evidence, snapshot) });
        return { data: { ...(await this.page.evaluate(() => app.data())), snapshot } };
    }

    async get_call_data() {
        const videos = [];
        for (const tile of await this.#frame.locator(TILE).elementHandles()) {
            const snapshot = this.#picture("tile");
            const shown = await tile.evaluate((tile) => ({
                caption: tile.querySelector("[data-testid=name_tag]")?.innerText ?? "",
                muted: tile.querySelector("[data-muted]")?.dataset.muted === "true",
                screenshare: tile.querySelector("[data-muted]") === null,
            }));
            try {
                await tile.screenshot({ path: join(evidence, snapshot) });
            } catch (error) {
                if (await tile.isVisible()) throw error;
                continue; // it disappeared meanwhile
            }
            videos.push({ ...shown, snapshot });
        }
        const data = await this.page.evaluate(() => ({ ...app.data(), screenshare: app.on("screenshare") }));
        return { data: { ...data, videos } };
    }

    async set_video_image({ image }) {
        await this.page.evaluate((colour) => (app.picture = colour), COLOURS[image]);
    }

    async set_mute({ audio_mute, video_mute }) {
        await this.#switch("mute", !audio_mute);
        await this.#switch("videomute", !video_mute);
    }

    async set_screenshare({ screenshare }) {
        await this.#switch("screenshare", screenshare);
    }

    // In the frame

    get #frame() {
        return this.page.frameLocator("iframe");
    }

    #until(see, argument, what) {
        return this.until(see, argument, what, () => this.page.evaluate(() => app.text()));
    }

    async #lobby() {
        // Who joins before the devices are known joins without them.
        const ready = (join) => app.shows(join) && app.on("mute") && app.on("videomute");
        await this.#until(ready, JOIN, "the lobby with microphone and camera");
    }

    #click(control) {
        return this.#frame.locator(`[data-testid=incall_${control}]`).click();
    }

    async #switch(control, on) {
        if ((await this.page.evaluate((control) => app.on(control), control)) !== on) await this.#click(control);
        await this.#until(([control, on]) => app.on(control) === on, [control, on], `${control} to be ${on}`);
    }

    #picture(what) {
        return `${what}-${++this.#pictures}.png`;
    }
}

function homeserver(url) {
    if (!url) throw new Unsupported("Element Call as a widget has no homeserver of its own: name one");
    return url.local;
}
