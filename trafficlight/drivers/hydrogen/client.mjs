// Hydrogen's user: an action returns when its effect is visible in the page, which page.js describes.
import { errors } from "playwright-core";

export class Unsupported extends Error {}

const POLL_MS = 30;
const full = (user) => (user.startsWith("@") ? user : `@${user}`);

export class HydrogenClient {
    #browser;

    constructor(browser) {
        this.#browser = browser;
    }

    get actions() {
        const own = Object.getOwnPropertyNames(HydrogenClient.prototype);
        return own.filter((name) => /^[a-z_]+$/.test(name) && !["constructor", "actions", "perform"].includes(name));
    }

    async perform(action, data) {
        if (!this.actions.includes(action)) throw new Unsupported(`Hydrogen's driver has no action ${action}`);
        const screen = await this.#page.evaluate(() => hydrogen.screen());
        if (screen !== "session" && !["register", "login"].includes(action)) throw new Error("not logged in");
        return this[action](data);
    }

    get #page() {
        return this.#browser.page;
    }

    /** Wait for what a function sees in the page; the error says what `seen` returns. */
    async #until(see, argument, what, seen = () => "") {
        try {
            return await (await this.#page.waitForFunction(see, argument, { polling: POLL_MS })).jsonValue();
        } catch (error) {
            if (!(error instanceof errors.TimeoutError)) throw error;
            const there = await seen();
            throw new Error(`expected ${what}${there && `; there is ${there}`}`);
        }
    }

    /** Do something that makes the page send a request, and wait until the homeserver accepts it. */
    async #accepted(method, path, act) {
        const accepted = this.#page.waitForResponse(
            (response) => response.ok() && response.request().method() === method && path.test(response.url()),
        );
        await Promise.all([accepted, act()]);
    }

    // Account

    async register({ username, password, homeserver_url }) {
        const auth = { type: "m.login.dummy" };
        const answer = await fetch(`${homeserver_url.local}/_matrix/client/v3/register`, {
            method: "POST",
            body: JSON.stringify({ username, password, auth, inhibit_login: true }),
        });
        if (!answer.ok) throw new Error(`the registration answered ${answer.status}: ${await answer.text()}`);
        await this.login({ username, password, homeserver_url });
    }

    async login({ username, password, homeserver_url, key_backup_passphrase }) {
        if (key_backup_passphrase !== undefined) throw new Unsupported("Hydrogen's driver restores no key backup");
        const page = this.#page;
        await page.evaluate(() => (location.hash = "#/login"));
        await page.fill("#homeserver", homeserver_url.local);
        await page.press("#homeserver", "Tab");
        const ready = (url) => hydrogen.homeserver() === url;
        await this.#until(ready, homeserver_url.local, "a login by password", () => page.innerText("body"));
        await page.fill("#username", username);
        await page.fill("#password", password);
        const answered = page.waitForResponse((one) => one.request().method() === "POST" && /\/login\b/.test(one.url()));
        const [answer] = await Promise.all([answered, page.click(".PasswordLoginView button[type=submit]")]);
        if (!answer.ok()) throw new Error(`the login answered ${answer.status()}: ${await answer.text()}`);
        await page.waitForSelector(".LeftPanel");
    }

    async logout() {
        await this.#page.click(".LeftPanel .settings");
        await this.#page.click(".Settings button:text-is('Log out')");
        await this.#accepted("POST", /\/logout\b/, () => this.#page.click(".LogoutScreen button.destructive"));
    }

    async reload() {
        const room = await this.#room();
        await this.#page.reload();
        await this.#browser.ready();
        if (room) await this.#opened(room.id);
    }

    // Rooms

    async create_room({ name, topic = "", encrypted = true, room_version }) {
        if (room_version !== undefined) throw new Unsupported("Hydrogen chooses no room version");
        const page = this.#page;
        const before = await page.evaluate(() => hydrogen.listed("room").map(({ url }) => url));
        await page.click(".LeftPanel .create");
        await page.click("button:text-is('Create Room')");
        await page.fill(".CreateRoomView #name", name);
        await page.fill(".CreateRoomView #topic", topic);
        await page.setChecked(".CreateRoomView #isEncrypted", encrypted);
        await page.click(".CreateRoomView button[type=submit]");
        const created = ([name, before]) =>
            hydrogen.listed("room").find((room) => room.name === name && !before.includes(room.url))?.url;
        await this.#open(await this.#until(created, [name, before], `the new room ${name}`));
        await this.#until((encrypted) => hydrogen.room().encrypted === encrypted, encrypted, "the room's encryption");
    }

    async open_room({ name }) {
        const named = (name) => hydrogen.listed("room").find((room) => room.name === name)?.url;
        const listed = () => this.#page.evaluate(() => hydrogen.listed("room").map(({ name }) => name).join(", "));
        await this.#open(await this.#until(named, name, `a room ${name}`, listed));
    }

    async invite_user({ userId }) {
        const page = this.#page;
        await page.click(".RoomHeader .room-options");
        await page.click("button:text-is('Room details')");
        await page.click(".RoomDetailsView_row:has-text('People')");
        await page.click(".MemberListView__invite-btn");
        await page.fill(".InvitePanelView__input", full(userId));
        await this.#accepted("POST", /\/invite\b/, () => page.click(".InvitePanelView__btn"));
    }

    async accept_invite({ room_id = "" }) {
        const invited = (id) => hydrogen.listed("invite").find(({ url }) => url.endsWith(encodeURIComponent(id)))?.url;
        const url = await this.#until(invited, room_id, "an invite");
        await this.#page.click(`.RoomList a[href="${url}"]`);
        await this.#page.click(".InviteView_buttonRow button:not(.destructive)");
        await this.#opened(roomId(url));
    }

    async #open(url) {
        await this.#page.click(`.RoomList a[href="${url}"]`);
        await this.#opened(roomId(url));
    }

    #room() {
        return this.#page.evaluate(() => hydrogen.room());
    }

    #opened(id) {
        return this.#until((id) => hydrogen.room()?.id === id, id, `the open room ${id}`);
    }

    // Messages

    async send_message({ message }) {
        const composer = this.#page.locator(".MessageComposer textarea");
        await composer.fill(message);
        await this.#accepted("PUT", /\/send\/m\.room\./, () => composer.press("Enter"));
    }

    async verify_message_in_timeline({ message }) {
        const sent = (message) => hydrogen.timeline().find((event) => event.message === message && event.event_id);
        const event = await this.#until(sent, message, `the message ${message}`, () => this.#shown());
        if (!event.encrypted && (await this.#room()).encrypted) {
            throw new Error(`${message} arrived unencrypted in an encrypted room`);
        }
    }

    async verify_last_message_is_utd() {
        const last = () => hydrogen.timeline().at(-1)?.undecryptable;
        await this.#until(last, undefined, "an undecryptable last message", () => this.#shown());
    }

    async get_timeline() {
        return { timeline: await this.#page.evaluate(() => hydrogen.timeline()) };
    }

    /** The end of the timeline, in words. */
    async #shown() {
        const { timeline } = await this.get_timeline();
        const entries = timeline.slice(-5).map(({ message, undecryptable, user }) => {
            const text = undecryptable ? "an undecryptable message" : message || "redacted";
            return `${text} by ${user}`;
        });
        return `the timeline, which ends with: ${entries.join("; ") || "nothing"}`;
    }
}

const roomId = (url) => decodeURIComponent(url.split("/").at(-1));
