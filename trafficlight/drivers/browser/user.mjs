// What users of clients in a browser have in common. A page describes what it shows by its global `app`.
import { errors } from "playwright-core";

export class Unsupported extends Error {}

const POLL_MS = 30;
const ACTION = /_|^(register|login|logout|reload)$/;

export const full = (user) => (user.startsWith("@") ? user : `@${user}`);

/** An action returns when its effect is visible in the page. */
export class User {
    #browser;

    constructor(browser) {
        this.#browser = browser;
    }

    get actions() {
        const names = new Set();
        for (let one = this; (one = Object.getPrototypeOf(one)) !== Object.prototype; ) {
            for (const name of Object.getOwnPropertyNames(one)) if (ACTION.test(name)) names.add(name);
        }
        return [...names];
    }

    async perform(action, data) {
        if (!this.actions.includes(action)) throw new Unsupported(`the driver has no action ${action}`);
        if (!["register", "login"].includes(action) && !(await this.page.evaluate(() => app.loggedIn()))) {
            throw new Error("not logged in");
        }
        return this[action](data);
    }

    get page() {
        return this.#browser.page;
    }

    async reload() {
        await this.page.reload({ waitUntil: "commit" });
        await this.#browser.ready();
    }

    /** Wait for what a function sees in the page; the error says what `seen` returns. */
    async until(see, argument, what, seen = () => "") {
        try {
            return await (await this.page.waitForFunction(see, argument, { polling: POLL_MS })).jsonValue();
        } catch (error) {
            if (!(error instanceof errors.TimeoutError)) throw error;
            const there = await seen();
            throw new Error(`expected ${what}${there && `; there is ${there}`}`);
        }
    }

    /** Do something that makes the page send a request, and wait until the homeserver accepts it. */
    async accepted(method, path, act) {
        const accepted = this.page.waitForResponse(
            (response) => response.ok() && response.request().method() === method && path.test(response.url()),
        );
        const [response] = await Promise.all([accepted, act()]);
        return response;
    }
}

/** A user of rooms with messages. */
export class ChatUser extends User {
    /** The open room, once it can be written in. */
    room() {
        return this.page.evaluate(() => app.room());
    }

    opened(id) {
        return this.until((id) => app.room()?.id === id, id, `the open room ${id}`);
    }

    /** The end of the timeline, in words. */
    async shown() {
        const { timeline } = await this.get_timeline();
        const entries = timeline.slice(-5).map(({ message, undecryptable, user }) => {
            const text = undecryptable ? "an undecryptable message" : message || "redacted";
            return `${text} by ${user}`;
        });
        return `the timeline, which ends with: ${entries.join("; ") || "nothing"}`;
    }

    async reload() {
        const room = await this.room();
        await super.reload();
        if (room) await this.opened(room.id);
    }

    async verify_message_in_timeline({ message }) {
        const sent = (message) => app.timeline().find((event) => event.message === message && event.event_id);
        const event = await this.until(sent, message, `the message ${message}`, () => this.shown());
        if (!event.encrypted && (await this.room()).encrypted) {
            throw new Error(`${message} arrived unencrypted in an encrypted room`);
        }
    }

    async verify_last_message_is_utd() {
        const last = () => app.timeline().at(-1)?.undecryptable;
        await this.until(last, undefined, "an undecryptable last message", () => this.shown());
    }

    async get_timeline() {
        return { timeline: await this.page.evaluate(() => app.timeline()) };
    }
}
