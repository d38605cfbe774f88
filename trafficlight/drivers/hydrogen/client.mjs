// Hydrogen's user: an action returns when its effect is visible in the page, which page.js describes.
import { ChatUser, Unsupported, full } from "./user.mjs";

export const app = {
    registration: { type: "hydrogen-web" },
    html:
        '<!doctype html><meta charset="utf-8"><title>Hydrogen</title><link rel="stylesheet" ' +
        'href="assets/theme-element-light.css"><body class="hydrogen"><script type="module" src="page.js"></script>',
    folders: [
        "build",
        "node_modules/hydrogen-view-sdk/asset-build",
        "node_modules/hydrogen-view-sdk/lib-build",
        "node_modules/@matrix-org/olm",
    ],
    ready: "#homeserver, .LeftPanel",
    longest: 25,
};

export class Client extends ChatUser {
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
        const page = this.page;
        await page.evaluate(() => (location.hash = "#/login"));
        await page.fill("#homeserver", homeserver_url.local);
        await page.press("#homeserver", "Tab");
        const ready = (url) => app.homeserver() === url;
        await this.until(ready, homeserver_url.local, "a login by password", () => page.innerText("body"));
        await page.fill("#username", username);
        await page.fill("#password", password);
        const answered = page.waitForResponse((one) => one.request().method() === "POST" && /\/login\b/.test(one.url()));
        const [answer] = await Promise.all([answered, page.click(".PasswordLoginView button[type=submit]")]);
        if (!answer.ok()) throw new Error(`the login answered ${answer.status()}: ${await answer.text()}`);
        await page.waitForSelector(".LeftPanel");
    }

    async logout() {
        await this.page.click(".LeftPanel .settings");
        await this.page.click(".Settings button:text-is('Log out')");
        await this.accepted("POST", /\/logout\b/, () => this.page.click(".LogoutScreen button.destructive"));
    }

    // Rooms

    async create_room({ name, topic = "", encrypted = true, room_version }) {
        if (room_version !== undefined) throw new Unsupported("Hydrogen chooses no room version");
        const page = this.page;
        const before = await page.evaluate(() => app.listed("room").map(({ url }) => url));
        await page.click(".LeftPanel .create");
        await page.click("button:text-is('Create Room')");
        await page.fill(".CreateRoomView #name", name);
        await page.fill(".CreateRoomView #topic", topic);
        await page.setChecked(".CreateRoomView #isEncrypted", encrypted);
        await page.click(".CreateRoomView button[type=submit]");
        const created = ([name, before]) =>
            app.listed("room").find((room) => room.name === name && !before.includes(room.url))?.url;
        await this.#open(await this.until(created, [name, before], `the new room ${name}`));
        await this.until((encrypted) => app.room().encrypted === encrypted, encrypted, "the room's encryption");
    }

    async open_room({ name }) {
        const named = (name) => app.listed("room").find((room) => room.name === name)?.url;
        const listed = () => this.page.evaluate(() => app.listed("room").map(({ name }) => name).join(", "));
        await this.#open(await this.until(named, name, `a room ${name}`, listed));
    }

    async invite_user({ userId }) {
        const page = this.page;
        await page.click(".RoomHeader .room-options");
        await page.click("button:text-is('Room details')");
        await page.click(".RoomDetailsView_row:has-text('People')");
        await page.click(".MemberListView__invite-btn");
        await page.fill(".InvitePanelView__input", full(userId));
        await this.accepted("POST", /\/invite\b/, () => page.click(".InvitePanelView__btn"));
    }

    async accept_invite({ room_id = "" }) {
        const invited = (id) => app.listed("invite").find(({ url }) => url.endsWith(encodeURIComponent(id)))?.url;
        const url = await this.until(invited, room_id, "an invite");
        await this.page.click(`.RoomList a[href="${url}"]`);
        await this.page.click(".InviteView_buttonRow button:not(.destructive)");
        await this.opened(roomId(url));
    }

    async #open(url) {
        await this.page.click(`.RoomList a[href="${url}"]`);
        await this.opened(roomId(url));
    }

    // Messages

    async send_message({ message }) {
        const composer = this.page.locator(".MessageComposer textarea");
        await composer.fill(message);
        await this.accepted("PUT", /\/send\/m\.room\./, () => composer.press("Enter"));
    }
}

const roomId = (url) => decodeURIComponent(url.split("/").at(-1));
