// Element's user: an action returns when its effect is visible in the page, which page.js describes.
import { ChatUser, Unsupported, full } from "./user.mjs";

export const app = {
    // Released; adapters of other builds call themselves by the same type.
    registration: { type: "element-web", labels: ["stable"] },
    // Its notices would lie over what is to be clicked.
    html:
        '<!doctype html><meta charset="utf-8"><title>Element</title><link rel="stylesheet" data-mx-theme="light" ' +
        'href="theme.css"><style>html, body, main { height: 100%; margin: 0 } ' +
        ".mx_ToastContainer { top: auto !important; bottom: 0; left: 0 !important }</style>" +
        '<main id="matrixchat"></main><script type="module" src="page.js"></script>',
    folders: ["build"],
    ready: "#nobody, .mx_MatrixChat, .mx_AuthPage",
    // Registering takes 5 seconds, and 50 on a busy machine.
    longest: Infinity,
};

const LOGGED_IN = ".mx_MatrixChat";
const FAILED = ".mx_Login_error, .mx_AuthBody .error";
const COMPOSER = ".mx_SendMessageComposer .mx_BasicMessageComposer_input";
const DIALOG = ".mx_Dialog_wrapper:last-child";
const PRIMARY = ".mx_AccessibleButton_kind_primary";

export class Client extends ChatUser {
    async perform(action, data) {
        try {
            return await super.perform(action, data);
        } catch (error) {
            // What is open would lie over what is to be clicked next.
            for (const _ of [1, 2]) await this.page.keyboard.press("Escape");
            throw error;
        }
    }

    // Account

    async register({ username, password, homeserver_url }) {
        const page = this.page;
        await this.#start(homeserver_url, "register");
        await this.#first("#mx_RegistrationForm_username", FAILED);
        await page.fill("#mx_RegistrationForm_username", username);
        await page.fill("#mx_RegistrationForm_password", password);
        await page.fill("#mx_RegistrationForm_passwordConfirm", password);
        await page.click(".mx_Login_submit");
        const skip = ".mx_UseCaseSelection_skip .mx_AccessibleButton";
        if ((await this.#first(skip, LOGGED_IN, FAILED)) === skip) await page.click(skip);
        await page.waitForSelector(LOGGED_IN);
    }

    async login({ username, password, homeserver_url, key_backup_passphrase: passphrase }) {
        const page = this.page;
        await this.#start(homeserver_url, "login");
        await this.#first("#mx_LoginForm_username", FAILED);
        await page.fill("#mx_LoginForm_username", username);
        await page.fill("#mx_LoginForm_password", password);
        await page.click(".mx_Login_submit");
        const unverified = ".mx_CompleteSecurity_body";
        if ((await this.#first(unverified, LOGGED_IN, FAILED)) === unverified) {
            if (passphrase === undefined) {
                await page.click(".mx_CompleteSecurity_skip");
                await page.click(".mx_CompleteSecurity_actionRow .mx_AccessibleButton_kind_danger_outline");
            } else {
                await page.click(".mx_CompleteSecurity_actionRow >> text=Verify with Security Key");
                await this.#unlock("#mx_passPhraseInput", passphrase);
                await page.click(`.mx_CompleteSecurity_actionRow ${PRIMARY} >> text=Done`);
            }
        }
        await page.waitForSelector(LOGGED_IN);
    }

    async logout() {
        await this.#menu("Sign out");
        // It asks what is to become of keys that are in no backup.
        const page = this.page;
        const confirm = page.locator(`${DIALOG} .mx_Dialog_primary:text-is("Sign out")`);
        const withoutBackup = page.locator("text=I don't want my encrypted messages");
        await this.accepted("POST", /\/logout\b/, () => confirm.or(withoutBackup).click());
    }

    // Rooms

    async create_room({ name, topic = "", encrypted = true, room_version }) {
        if (room_version !== undefined) throw new Unsupported("Element's dialog has no room versions");
        const page = this.page;
        const before = await this.#rooms();
        await page.click("[aria-label='Add room']");
        await page.click("[role=menuitem]:has-text('New room')");
        await page.fill(".mx_CreateRoomDialog_name input", name);
        await page.fill(".mx_CreateRoomDialog_topic input", topic);
        if (!encrypted) await page.click(".mx_CreateRoomDialog_e2eSwitch [role=switch]");
        await page.click(".mx_CreateRoomDialog .mx_Dialog_primary");
        const opened = (before) => app.room() && !before.includes(app.room().id);
        await this.until(opened, before, `the new room ${name}`);
        await this.until((encrypted) => app.room().encrypted === encrypted, encrypted, "the room's encryption");
    }

    async create_dm({ userId }) {
        const page = this.page;
        const before = await this.#rooms();
        await page.click("[aria-label='Start chat']");
        await this.#invite(full(userId));
        // It only creates the room with the first message, or if it is asked for it.
        await this.#command(`/query ${full(userId)}`);
        // Until then it is a room of this page only.
        const opened = (before) => app.rooms("join").includes(app.room()?.id) && !before.includes(app.room().id);
        await this.until(opened, before, `the new chat with ${userId}`);
        await this.until(() => app.room().encrypted, undefined, "the chat's encryption");
    }

    async open_room({ name }) {
        const tile = this.page.locator(`.mx_RoomTile:has(.mx_RoomTile_title[title=${JSON.stringify(name)}])`).first();
        await tile.click().catch(async () => {
            const names = await this.page.locator(".mx_RoomTile_title").allInnerTexts();
            throw new Error(`expected a room ${name}; there is ${names.join(", ")}`);
        });
        await this.until((name) => app.room()?.name === name, name, `the open room ${name}`);
    }

    async invite_user({ userId }) {
        await this.#summary("Invite");
        await this.accepted("POST", /\/invite\b/, () => this.#invite(full(userId)));
    }

    async get_invites() {
        return { invites: await this.page.evaluate(() => app.invites()) };
    }

    async accept_invite({ room_id: wanted }) {
        const found = ([wanted]) => app.invites().findLast(({ room_id }) => [room_id, undefined, null].includes(wanted));
        const { room_id, name } = await this.until(found, [wanted], "an invite");
        await this.page.click(`.mx_RoomSublist:has-text('Invites') .mx_RoomTile:has-text(${JSON.stringify(name)})`);
        await this.page.click(`.mx_RoomPreviewBar_actions ${PRIMARY}`);
        await this.opened(room_id);
    }

    async kick_user({ userId, reason = "" }) {
        await this.#command(`/remove ${full(userId)} ${reason}`);
        await this.#member(full(userId), "leave");
    }

    async change_room_history_visibility({ historyVisibility }) {
        await this.#summary("Settings");
        await this.page.click(`${DIALOG} [role=tab]:has-text('Security & Privacy')`);
        const choice = this.page.locator(`label:has(input[name=historyVis][value=${historyVisibility}])`);
        if (await choice.locator("input").isDisabled()) throw new Error("Element does not let this user change it");
        await this.accepted("PUT", /\/state\/m\.room\.history_visibility/, () => choice.click());
        await this.page.click("[aria-label='Close dialog']");
    }

    async get_room() {
        return { room: await this.page.evaluate(() => app.state()) };
    }

    // Messages

    async send_message({ message }) {
        await this.#sent(COMPOSER, message);
    }

    async verify_message_in_timeline({ message }) {
        // Threads are shown beside the timeline.
        const thread = this.page.locator(".mx_ThreadSummary").last();
        if (await thread.isVisible()) await thread.click();
        await super.verify_message_in_timeline({ message });
    }

    async get_timeline() {
        // It folds redacted messages up, with changes of members.
        const folded = this.page.locator(".mx_GenericEventListSummary[data-expanded=false]");
        while (await folded.count()) await folded.first().locator(".mx_GenericEventListSummary_toggle").click();
        return super.get_timeline();
    }

    async verify_last_message_is_trusted() {
        const trusted = () => app.timeline().at(-1)?.shield === "none";
        await this.until(trusted, undefined, "a last message without a warning", () => this.shown());
    }

    async edit_message({ event_id, message }) {
        await this.#act(event_id, "Edit");
        const editor = ".mx_EditMessageComposer .mx_BasicMessageComposer_input";
        await this.page.fill(editor, "");
        await this.accepted("PUT", /\/send\/m\.room\./, async () => {
            await this.#type(editor, message);
            await this.page.click(".mx_EditMessageComposer_buttons >> text=Save");
        });
    }

    async send_reaction({ event_id, key }) {
        const emoji = await this.page.evaluate((key) => app.emoji(key), key);
        if (!emoji) throw new Unsupported(`Element's picker has no ${key}`);
        await this.#act(event_id, "React");
        await this.page.fill(".mx_EmojiPicker_search input", emoji.label);
        const found = `.mx_EmojiPicker_body .mx_EmojiPicker_item:text-is("${emoji.unicode}")`;
        await this.accepted("PUT", /\/send\/m\.reaction/, () => this.page.click(found));
    }

    async redact_event({ event_id, reason = "" }) {
        await this.#act(event_id, "Options");
        await this.page.click("[role=menuitem]:has-text('Remove')");
        await this.page.fill(`${DIALOG} input`, reason);
        await this.accepted("PUT", /\/redact\//, () => this.page.click(`${DIALOG} .mx_Dialog_primary`));
    }

    async send_reply({ event_id, message }) {
        await this.#act(event_id, "Reply");
        await this.page.waitForSelector(".mx_ReplyPreview");
        await this.#sent(COMPOSER, message);
    }

    async send_in_thread({ event_id, message }) {
        await this.#act(event_id, "Reply in thread");
        await this.#sent(`.mx_ThreadView ${COMPOSER}`, message);
    }

    async set_typing({ typing }) {
        await this.accepted("PUT", /\/typing\//, async () => {
            await this.page.click(COMPOSER);
            if (typing) await this.page.keyboard.insertText("Typing");
            else await this.page.fill(COMPOSER, "");
        });
    }

    async get_typing() {
        return { users: await this.page.evaluate(() => app.typing()) };
    }

    // Verification and trust

    async start_crosssign({ userId }) {
        if (userId === undefined) throw new Unsupported("the driver verifies other users only");
        await this.#summary("People");
        const member = await this.page.evaluate((user) => app.member(user), full(userId));
        await this.page.click(`.mx_MemberList .mx_EntityTile:has-text(${JSON.stringify(member)})`);
        await this.page.click(".mx_UserInfo_verifyButton");
        await this.page.click(".mx_UserInfo_startVerification");
        await this.#phase(["requested", "ready", "started"]);
    }

    async accept_crosssign() {
        await this.page.click(".mx_Toast_toast:has-text('Verification requested') .mx_Toast_buttons :text('Verify')");
        // In the room's panel, or in a dialog.
        const panel = ".mx_VerificationPanel_";
        const start = `:is(${panel}verifyByEmojiButton, ${panel}QRPhase_startOption [role=button])`;
        const emoji = ".mx_VerificationShowSas_emojiSas_emoji";
        if ((await this.#first(start, emoji)) === start) await this.page.click(start);
        await this.get_emoji();
    }

    async get_emoji() {
        const shown = await this.page.waitForSelector(".mx_VerificationShowSas_emojiSas");
        const texts = (all) => all.map((one) => one.textContent.replaceAll("\uFE0F", ""));
        return { emoji: await shown.$$eval(".mx_VerificationShowSas_emojiSas_emoji", texts) };
    }

    async verify_crosssign_emoji() {
        await this.page.click(`.mx_VerificationShowSas_buttonRow ${PRIMARY}`);
        await this.#phase(["done"]);
        await this.page.waitForSelector(".mx_VerificationPanel_verified_section");
        // The signature is uploaded after that.
        await this.until(() => app.trusted(), undefined, "the other user to be verified");
    }

    async reject_emoji() {
        await this.page.click(".mx_VerificationShowSas_buttonRow .mx_AccessibleButton_kind_danger");
        await this.#phase(["cancelled"]);
        await this.page.click(`${DIALOG} .mx_Dialog_primary`);
    }

    async cancel_verification() {
        await this.#phase(["requested", "ready", "started"]);
        await this.page.click("[data-testid=base-card-close-button]");
        await this.#phase(["cancelled"]);
    }

    async get_verification() {
        return { verification: await this.page.evaluate(() => app.verification()) };
    }

    async get_trust({ userId }) {
        return { trust: await this.page.evaluate((user) => app.trust(user), full(userId)) };
    }

    async get_devices() {
        return { devices: await this.page.evaluate(() => app.devices()) };
    }

    // Key backup

    async restore_key_backup({ recovery_key }) {
        await this.page.click(".mx_Toast_toast:has-text('Verify this session') .mx_Toast_buttons :text('Verify')");
        await this.page.click(`${DIALOG} .mx_CompleteSecurity_actionRow >> text=Verify with Security Key`);
        await this.#unlock("#mx_securityKey", recovery_key);
        await this.page.click(`${DIALOG} .mx_CompleteSecurity_actionRow >> text=Done`);
    }

    // In the page

    async #start({ local }, screen) {
        // A page logs in once.
        if (!(await this.page.$("#nobody"))) {
            await this.page.evaluate(() => localStorage.clear());
            await this.page.reload();
            await this.page.waitForSelector("#nobody");
        }
        await this.page.evaluate(([local, screen]) => app.start(local, screen), [local, screen]);
    }

    /** Wait for the first of some selectors to be there. */
    async #first(...selectors) {
        const there = (all) => all.find((one) => document.querySelector(one));
        const text = () => this.page.innerText("body");
        const found = await this.until(there, selectors, selectors.join(" or "), text);
        if (found === FAILED) throw new Error(await this.page.innerText(FAILED));
        return found;
    }

    #rooms() {
        return this.page.evaluate(() => app.rooms("join"));
    }

    async #menu(item) {
        await this.page.click("[aria-label='User menu']");
        await this.page.click(`.mx_UserMenu_contextMenu [role=menuitem]:has-text('${item}')`);
    }

    /** Choose an item of the room's summary. */
    async #summary(item) {
        if (!(await this.page.isVisible(".mx_RoomSummaryCard"))) await this.page.click(".mx_RoomHeader_infoWrapper");
        await this.page.click(`.mx_RoomSummaryCard [role=menuitem]:has-text('${item}')`);
    }

    /** Enter a user in the dialog for it. */
    async #invite(user) {
        await this.page.fill("[data-testid=invite-dialog-input]", user);
        await this.page.click(".mx_InviteDialog_goButton");
        await this.page.waitForSelector(".mx_InviteDialog_goButton", { state: "detached" });
    }

    async #command(text) {
        await this.#type(COMPOSER, text);
        // Not by Enter, which would complete names.
        await this.page.click(".mx_MessageComposer_sendMessage");
    }

    async #type(composer, text) {
        await this.page.click(composer);
        for (const [index, line] of text.split("\n").entries()) {
            if (index) await this.page.keyboard.press("Shift+Enter");
            await this.page.keyboard.insertText(line);
        }
    }

    async #sent(composer, message) {
        const panel = composer.startsWith(".mx_ThreadView") ? ".mx_ThreadView " : "";
        await this.accepted("PUT", /\/send\/m\.room\./, async () => {
            await this.#type(composer, message);
            await this.page.click(`${panel}.mx_MessageComposer_sendMessage`);
        });
    }

    /** Choose what to do with an event. */
    async #act(event, action) {
        const tile = this.page.locator(`.mx_EventTile[data-event-id=${JSON.stringify(event)}]`);
        await tile.hover();
        await tile.locator(`.mx_MessageActionBar [aria-label=${JSON.stringify(action)}]`).click();
    }

    async #member(user, membership) {
        const seen = ([user, membership]) => app.state().members[user]?.membership === membership;
        await this.until(seen, [user, membership], `${user} to be out: ${membership}`);
    }

    async #phase(phases) {
        const reached = (phases) => phases.includes(app.verification().phase);
        const phase = () => this.page.evaluate(() => `the phase ${app.verification().phase}`);
        await this.until(reached, phases, `the verification to be ${phases.join(" or ")}`, phase);
    }

    async #unlock(field, secret) {
        await this.page.fill(field, secret);
        const wrong = ".mx_AccessSecretStorageDialog_recoveryKeyFeedback--invalid";
        const go = ".mx_AccessSecretStorageDialog .mx_Dialog_primary:enabled";
        if ((await this.#first(go, wrong)) === wrong) throw new Error(await this.page.innerText(wrong));
        await this.page.click(go);
    }
}
