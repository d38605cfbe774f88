// A device of one user in matrix-js-sdk. An action returns when its effect is visible in this client.
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { join } from "node:path";
import * as sdk from "matrix-js-sdk";
import { OnlySignedDevicesIsolationMode } from "matrix-js-sdk/lib/crypto-api/index.js";
import { decodeRecoveryKey } from "matrix-js-sdk/lib/crypto-api/recovery-key.js";
import { deriveRecoveryKeyFromPassphrase } from "matrix-js-sdk/lib/crypto-api/key-passphrase.js";
import { VerificationPhase } from "matrix-js-sdk/lib/crypto-api/verification.js";
import { decrypted, encrypted } from "./attachments.mjs";
import { databases, discard } from "./storage.mjs";

export const { version } = createRequire(import.meta.url)("matrix-js-sdk/package.json");

export class Unsupported extends Error {}

// Seconds that waits may take.
const LONGEST_WAIT = 25;
let longest = LONGEST_WAIT;
const SHIELDS = ["none", "grey", "red"];
const KINDS = { "m.text": "text", "m.notice": "text", "m.emote": "text", "m.image": "image", "m.file": "file" };
const full = (user) => (user.startsWith("@") ? user : `@${user}`);

/** Set how long the waits of an action may take: the host kills a driver that is late. */
export function limitWaits(deadline = Infinity) {
    longest = Math.min(LONGEST_WAIT, 0.8 * deadline);
}

/** Wait until `see` returns something; the error says what `seen` returns. */
async function until(see, what, seen = () => undefined) {
    const end = performance.now() + longest * 1000;
    for (;;) {
        const value = await see();
        if (value) return value;
        if (performance.now() > end) {
            const there = await seen();
            const words = typeof there === "string" ? there : JSON.stringify(there);
            throw new Error(`expected ${what} within ${longest} s${words ? `; there is ${words}` : ""}`);
        }
        await new Promise((done) => setTimeout(done, 15));
    }
}

export class MatrixClient {
    #client;
    #room;
    // What a restarted process needs to go on as the same device: the login, the password, and the key of secret
    // storage, as a user keeps it.
    #session = {};
    #request;
    // The end of the verification in progress.
    #verified;
    #storage;

    constructor(storage) {
        this.#storage = storage;
    }

    /** Go on with the login that the storage holds, if there is one. */
    async resume() {
        if (!existsSync(this.#file)) return;
        this.#session = JSON.parse(readFileSync(this.#file));
        await this.#start();
    }

    get actions() {
        const own = Object.getOwnPropertyNames(MatrixClient.prototype);
        return own.filter((name) => /^[a-z_]+$/.test(name) && !["constructor", "actions", "perform", "resume"].includes(name));
    }

    perform(action, data) {
        if (!this.actions.includes(action)) throw new Unsupported(`matrix-js-sdk's driver has no action ${action}`);
        return this[action](data);
    }

    // Account

    async register({ username, password, homeserver_url }) {
        const url = homeserver_url.local;
        const auth = { type: "m.login.dummy" };
        const created = await sdk.createClient({ baseUrl: url }).registerRequest({ username, password, auth });
        await this.#enter(url, created, password);
        await this.#crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: this.#authorise });
    }

    async login({ username, password, homeserver_url, key_backup_passphrase }) {
        const url = homeserver_url.local;
        const identifier = { type: "m.id.user", user: username };
        const request = { type: "m.login.password", identifier, password };
        await this.#enter(url, await sdk.createClient({ baseUrl: url }).loginRequest(request), password);
        if (key_backup_passphrase === undefined) return;
        const [, info] = (await this.#client.secretStorage.getKey()) ?? [];
        if (!info?.passphrase) throw new Error("the account has no secret storage with a passphrase");
        const { salt, iterations } = info.passphrase;
        await this.#restore(await deriveRecoveryKeyFromPassphrase(key_backup_passphrase, salt, iterations));
    }

    async logout() {
        await this.#client.logout(true);
        this.#forget();
    }

    async reload() {
        const room = this.#room?.roomId;
        await this.#client.store.save(true);
        this.#client.stopClient();
        await this.#start();
        if (room) await this.#open(room);
    }

    async advance_clock({ milliseconds }) {
        const now = Date.now;
        Date.now = () => now() + milliseconds;
    }

    async set_display_name({ name }) {
        await this.#client.setDisplayName(name);
    }

    async get_devices() {
        const own = this.#client.getUserId();
        const { devices } = await this.#client.getDevices();
        const shown = devices.map(async ({ device_id, display_name }) => ({
            device_id,
            display_name: display_name ?? "",
            verified: (await this.#crypto.getDeviceVerificationStatus(own, device_id))?.isVerified() ?? false,
        }));
        return { devices: await Promise.all(shown) };
    }

    async log_out_device({ device_id }) {
        await this.#authorise((auth) => this.#client.deleteDevice(device_id, auth ?? undefined));
    }

    // Rooms

    async create_room({ name, topic, encrypted = true, room_version }) {
        const { room_id } = await this.#client.createRoom({
            name,
            topic,
            room_version,
            preset: "private_chat",
            initial_state: encrypted ? [ENCRYPTION] : [],
        });
        await this.#open(room_id);
        const complete = () => this.#room.name === name && this.#room.hasEncryptionStateEvent() === encrypted;
        await until(complete, "the complete state of the new room", () => this.#room.name);
    }

    async create_dm({ userId }) {
        const user = full(userId);
        const options = { is_direct: true, invite: [user], preset: "trusted_private_chat", initial_state: [ENCRYPTION] };
        const { room_id } = await this.#client.createRoom(options);
        await this.#open(room_id);
        await until(() => this.#room.hasEncryptionStateEvent() && this.#room.getMember(user), `${user} in the room`);
        const direct = this.#client.getAccountData("m.direct")?.getContent() ?? {};
        await this.#client.setAccountData("m.direct", { ...direct, [user]: [...(direct[user] ?? []), room_id] });
    }

    async open_room({ name }) {
        const named = () => this.#rooms("join").findLast((room) => room.name === name);
        this.#room = await until(named, `a room named ${name}`, () => this.#rooms("join").map((room) => room.name));
    }

    async get_room() {
        const room = await this.#opened;
        const state = room.currentState;
        const successor = state.getStateEvents("m.room.tombstone", "")?.getContent().replacement_room;
        const members = room.getMembers().map((member) => [
            member.userId,
            { membership: member.membership, display_name: member.name, power_level: level(member.powerLevel) },
        ]);
        return {
            room: {
                room_id: room.roomId,
                name: room.name,
                topic: state.getStateEvents("m.room.topic", "")?.getContent().topic ?? "",
                encrypted: room.hasEncryptionStateEvent(),
                version: room.getVersion(),
                history_visibility: room.getHistoryVisibility(),
                members: Object.fromEntries(members),
                ...(successor && { successor }),
            },
        };
    }

    async invite_user({ userId }) {
        const user = full(userId);
        await this.#client.invite(this.#opened.roomId, user);
        await until(() => this.#room.getMember(user)?.membership === "invite", `${user} to be invited`);
    }

    async get_invites() {
        const own = this.#client.getUserId();
        return {
            invites: this.#rooms("invite").map((room) => ({
                room_id: room.roomId,
                name: room.name,
                inviter: room.getMember(own).events.member.getSender(),
            })),
        };
    }

    async accept_invite({ room_id }) {
        const invited = await this.#invite(room_id);
        await this.#client.joinRoom(invited.roomId);
        await this.#open(invited.roomId);
    }

    async decline_invite({ room_id }) {
        await this.#client.leave((await this.#invite(room_id)).roomId);
    }

    async leave_room() {
        await this.#client.leave(this.#opened.roomId);
        this.#room = undefined;
    }

    async kick_user({ userId, reason }) {
        await this.#client.kick(this.#opened.roomId, full(userId), reason);
        await this.#member(full(userId), (member) => member?.membership === "leave", "to be removed");
    }

    async ban_user({ userId, reason }) {
        await this.#client.ban(this.#opened.roomId, full(userId), reason);
        await this.#member(full(userId), (member) => member?.membership === "ban", "to be banned");
    }

    async set_power_level({ userId, level }) {
        await this.#client.setPowerLevel(this.#opened.roomId, full(userId), level);
        await this.#member(full(userId), (member) => member?.powerLevel === level, `to have power level ${level}`);
    }

    async upgrade_room({ version: to }) {
        await this.#client.upgradeRoom(this.#opened.roomId, to);
        const tombstone = () => this.#room.currentState.getStateEvents("m.room.tombstone", "");
        await until(tombstone, "the tombstone of the room");
    }

    async change_room_history_visibility({ historyVisibility }) {
        const content = { history_visibility: historyVisibility };
        await this.#client.sendStateEvent(this.#opened.roomId, "m.room.history_visibility", content, "");
        const seen = () => this.#room.getHistoryVisibility();
        await until(() => seen() === historyVisibility, `history visibility ${historyVisibility}`, seen);
    }

    // Messages

    async send_message({ message }) {
        await this.#client.sendTextMessage(this.#opened.roomId, message);
    }

    async edit_message({ event_id, message }) {
        const text = { msgtype: "m.text", body: message };
        await this.#send({
            msgtype: "m.text",
            body: `* ${message}`,
            "m.new_content": text,
            "m.relates_to": { rel_type: "m.replace", event_id },
        });
    }

    async send_reply({ event_id, message }) {
        const relation = { "m.in_reply_to": { event_id } };
        await this.#send({ msgtype: "m.text", body: message, "m.relates_to": relation });
    }

    async send_in_thread({ event_id, message }) {
        const relation = { rel_type: "m.thread", event_id };
        await this.#send({ msgtype: "m.text", body: message, "m.relates_to": relation });
    }

    async send_reaction({ event_id, key }) {
        const relation = { rel_type: "m.annotation", event_id, key };
        await this.#client.sendEvent(this.#opened.roomId, "m.reaction", { "m.relates_to": relation });
    }

    async redact_event({ event_id, reason }) {
        await this.#client.redactEvent(this.#opened.roomId, event_id, undefined, reason ? { reason } : undefined);
    }

    async send_read_receipt({ event_id }) {
        const event = await until(() => this.#opened.findEventById(event_id), `the event ${event_id}`);
        await this.#client.sendReadReceipt(event, "m.read", true);
    }

    async set_typing({ typing }) {
        await this.#client.sendTyping(this.#opened.roomId, typing, 30_000);
    }

    async get_typing() {
        const own = this.#client.getUserId();
        const typing = this.#opened.getMembers().filter((member) => member.typing && member.userId !== own);
        return { users: typing.map((member) => member.userId) };
    }

    async send_file({ name, content_type, content }) {
        const bytes = Buffer.from(content, "base64");
        const msgtype = content_type.startsWith("image/") ? "m.image" : "m.file";
        const info = { mimetype: content_type, size: bytes.length };
        const upload = (data, type) => this.#client.uploadContent(new Blob([data]), { type, includeFilename: false });
        if (!this.#opened.hasEncryptionStateEvent()) {
            const { content_uri: url } = await upload(bytes, content_type);
            return void (await this.#send({ msgtype, body: name, filename: name, url, info }));
        }
        const { data, file } = encrypted(bytes);
        const { content_uri: url } = await upload(data, "application/octet-stream");
        await this.#send({ msgtype, body: name, filename: name, file: { ...file, url }, info });
    }

    async get_file({ event_id }) {
        const readable = () => {
            const event = this.#opened.findEventById(event_id);
            return event && !event.isDecryptionFailure() && !event.isBeingDecrypted() && event.getContent();
        };
        const { body, filename, url, file, info } = await until(readable, `the event ${event_id}, decrypted`);
        if (!url && !file) throw new Error(`the event ${event_id} has no file`);
        const address = this.#client.mxcUrlToHttp(file?.url ?? url, undefined, undefined, undefined, false, true, true);
        const headers = { authorization: `Bearer ${this.#client.getAccessToken()}` };
        const answer = await fetch(address, { headers });
        if (!answer.ok) throw new Error(`the download of ${event_id} answered ${answer.status}`);
        const received = Buffer.from(await answer.arrayBuffer());
        const bytes = file ? decrypted(received, file) : received;
        const content_type = info?.mimetype ?? "application/octet-stream";
        return { file: { name: filename ?? body, content_type, content: bytes.toString("base64") } };
    }

    async load_earlier() {
        await this.#client.scrollback(this.#opened, 50);
        return { more: this.#room.oldState.paginationToken !== null };
    }

    async verify_message_in_timeline({ message }) {
        let looks = 0;
        await until(async () => {
            const found = this.#events().find((event) => !event.isRedacted() && event.getContent().body === message);
            if (found && !found.isEncrypted() && this.#room.hasEncryptionStateEvent()) {
                throw new Error(`${message} arrived unencrypted in an encrypted room`);
            }
            // It may be older than what the first sync brought.
            if (!found && looks++ % 60 === 5 && this.#room.getLiveTimeline().getPaginationToken("b")) {
                await this.#client.scrollback(this.#room, 50);
            }
            return found;
        }, `the message ${message}`, () => this.#shown());
    }

    async verify_last_message_is_utd() {
        const last = () => this.#events().at(-1)?.isDecryptionFailure();
        await until(last, "an undecryptable last message", () => this.#shown());
    }

    async verify_last_message_is_trusted() {
        const trusted = async () => {
            const last = this.#events().at(-1);
            return last && (await this.#shield(last)) === "none";
        };
        await until(trusted, "a trusted last message", () => this.#shown());
    }

    async get_timeline() {
        return { timeline: await this.#timeline() };
    }

    // Verification and trust

    async start_crosssign({ userId }) {
        if (userId === undefined) {
            // A device that has just logged in may not have queried its own user's keys yet.
            await this.#crypto.userHasCrossSigningKeys();
            this.#follow(await this.#crypto.requestOwnUserVerification());
        } else {
            this.#follow(await this.#crypto.requestVerificationDM(full(userId), this.#opened.roomId));
        }
        // As a user interface does: who asked answers the start at once.
        const request = this.#request;
        request.on("change", () => request.verifier && this.#verify());
    }

    async accept_crosssign() {
        const request = await this.#accept();
        if (!request.verifier) await request.startVerification("m.sas.v1");
        await this.#sas();
    }

    async get_emoji() {
        return { emoji: (await this.#sas()).sas.emoji.map(([emoji]) => emoji.replaceAll("\uFE0F", "")) };
    }

    async verify_crosssign_emoji() {
        await this.#confirm(await this.#sas());
    }

    async show_qr_code() {
        const code = await (await this.#accept()).generateQRCode();
        if (!code) throw new Unsupported("the other side scans no QR codes");
        return { qr_code: Buffer.from(code).toString("base64") };
    }

    async scan_qr_code({ qr_code }) {
        const ready = () => this.#state.phase === "ready" && this.#request;
        await (await until(ready, "a verification that is ready", () => this.#state)).scanQRCode(Buffer.from(qr_code, "base64"));
    }

    async confirm_qr_code() {
        await this.#confirm(await this.#compared("a scan of the QR code", (verifier) => verifier.getReciprocateQrCodeCallbacks()));
    }

    /** Confirm what is shown, and wait until it has an effect. */
    async #confirm(shown) {
        // A request that is done no longer knows the device.
        const { otherUserId: user, otherDeviceId: device } = this.#request;
        await shown.confirm();
        await this.#verified;
        await until(() => this.#state.phase === "done", "the verification to end", () => this.#state);
        // The signature is uploaded after that.
        const trusted = async () =>
            // A request that went to all own devices names none.
            user === this.#client.getUserId() && device
                ? (await this.#crypto.getDeviceVerificationStatus(user, device))?.isVerified()
                : (await this.get_trust({ userId: user })).trust === "verified";
        await until(trusted, `${user} to be verified`);
    }

    async reject_emoji() {
        (await this.#sas()).mismatch();
        await this.#cancelled();
    }

    async cancel_verification() {
        await (await until(() => this.#request?.pending && this.#request, "a verification", () => this.#state)).cancel();
        await this.#cancelled();
    }

    async get_verification() {
        return { verification: this.#state };
    }

    async verify_trusted_device() {
        const own = this.#client.getUserId();
        const others = this.#room?.getJoinedMembers().map((member) => member.userId) ?? [];
        const user = others.find((id) => id !== own) ?? own;
        const seen = async () => (await this.get_trust({ userId: user })).trust;
        await until(async () => (await seen()) === "verified", `${user} to be verified`, seen);
    }

    async get_trust({ userId }) {
        const user = full(userId);
        const status = await this.#crypto.getUserVerificationStatus(user);
        if (status.isCrossSigningVerified()) return { trust: "verified" };
        if (status.wasCrossSigningVerified() || status.needsUserApproval) return { trust: "changed" };
        const known = await this.#crypto.userHasCrossSigningKeys(user, true);
        return { trust: known ? "unverified" : "unknown" };
    }

    async reset_identity() {
        await this.#crypto.resetEncryption(this.#authorise);
    }

    async block_device({ userId, device_id }) {
        const devices = await this.#crypto.getUserDeviceInfo([full(userId)], true);
        if (!devices.get(full(userId))?.has(device_id)) throw new Error(`${userId} has no device ${device_id}`);
        throw new Unsupported("matrix-js-sdk with Rust crypto cannot block a single device");
    }

    async exclude_insecure_devices() {
        this.#crypto.setDeviceIsolationMode(new OnlySignedDevicesIsolationMode());
    }

    // Key backup

    async enable_key_backup({ key_backup_passphrase }) {
        await this.#backUp(await this.#crypto.createRecoveryKeyFromPassphrase(key_backup_passphrase));
    }

    async create_key_backup() {
        const key = await this.#crypto.createRecoveryKeyFromPassphrase();
        await this.#backUp(key);
        return { recovery_key: key.encodedPrivateKey };
    }

    async restore_key_backup({ recovery_key }) {
        await this.#restore(decodeRecoveryKey(recovery_key));
    }

    async delete_key_backup() {
        const version = await this.#crypto.getActiveSessionBackupVersion();
        if (version === null) throw new Error("no key backup is active");
        await this.#crypto.deleteKeyBackupVersion(version);
    }

    async enable_dehydrated_device({ key_backup_passphrase }) {
        await this.enable_key_backup({ key_backup_passphrase });
        await this.#crypto.startDehydration({ createNewKey: true });
    }

    get #crypto() {
        if (!this.#client) throw new Error("not logged in");
        return this.#client.getCrypto();
    }

    get #opened() {
        if (!this.#room) throw new Error("no room is open");
        return this.#room;
    }

    #authorise = (request) =>
        request({
            type: "m.login.password",
            identifier: { type: "m.id.user", user: this.#client.getUserId() },
            password: this.#session.password,
        });

    async #enter(url, { access_token, user_id, device_id }, password) {
        this.#client?.stopClient();
        this.#forget();
        this.#keep({ url, access_token, user_id, device_id, password });
        await this.#start();
    }

    #forget() {
        discard(this.#databases);
        rmSync(this.#file, { force: true });
        this.#request = this.#room = undefined;
        this.#session = {};
    }

    #keep(change) {
        Object.assign(this.#session, change);
        writeFileSync(`${this.#file}.new`, JSON.stringify(this.#session));
        renameSync(`${this.#file}.new`, this.#file);
    }

    get #file() {
        return join(this.#storage, "session.json");
    }

    get #databases() {
        return join(this.#storage, "databases");
    }

    get #secret() {
        return this.#session.secret && Buffer.from(this.#session.secret, "base64");
    }

    set #secret(key) {
        this.#keep({ secret: Buffer.from(key).toString("base64") });
    }

    async #start() {
        const { url, access_token, user_id, device_id } = this.#session;
        // The SDK's crypto opens the global one.
        globalThis.indexedDB = await databases(this.#databases);
        // A restart goes on with the sync where it ended, as in a browser.
        const store = new sdk.IndexedDBStore({ indexedDB: globalThis.indexedDB, dbName: "sync" });
        await store.startup();
        this.#client = sdk.createClient({
            store,
            baseUrl: url,
            accessToken: access_token,
            userId: user_id,
            deviceId: device_id,
            verificationMethods: ["m.sas.v1", "m.qr_code.show.v1", "m.qr_code.scan.v1", "m.reciprocate.v1"],
            cryptoCallbacks: {
                getSecretStorageKey: ({ keys }) => this.#keyOf(keys),
                cacheSecretStorageKey: (_id, _info, key) => (this.#secret = key),
            },
        });
        await this.#client.initRustCrypto();
        this.#client.on("crypto.verificationRequestReceived", (request) => this.#follow(request));
        await this.#client.startClient({ initialSyncLimit: 50 });
        await until(() => this.#client.isInitialSyncComplete(), "the first sync");
    }

    /** Our key of secret storage with its id: after a reset, a secret may be encrypted with the key before, too. */
    async #keyOf(keys) {
        for (const [id, info] of Object.entries(this.#secret ? keys : {})) {
            if (await this.#client.secretStorage.checkKey(this.#secret, info)) return [id, this.#secret];
        }
        return null;
    }

    async #open(id) {
        const joined = () => this.#rooms("join").find((room) => room.roomId === id);
        this.#room = await until(joined, `to be in ${id}`);
    }

    #rooms(membership) {
        return this.#client.getRooms().filter((room) => room.getMyMembership() === membership);
    }

    #invite(id) {
        const waiting = () => this.#rooms("invite").findLast((room) => id === undefined || room.roomId === id);
        return until(waiting, id === undefined ? "an invite" : `an invite to ${id}`);
    }

    #member(user, holds, what) {
        const member = () => this.#room.getMember(user);
        return until(() => holds(member()), `${user} ${what}`, () => member()?.membership);
    }

    #send(content) {
        return this.#client.sendEvent(this.#opened.roomId, "m.room.message", content);
    }

    #events() {
        const shown = ["m.room.message", "m.room.encrypted"];
        return this.#opened
            .getLiveTimeline()
            .getEvents()
            .filter((event) => shown.includes(event.getType()) && !event.isRelation("m.replace"));
    }

    #timeline() {
        return Promise.all(this.#events().map((event) => this.#entry(event)));
    }

    /** The end of the timeline, in words. */
    #shown() {
        const entries = this.#events().slice(-5).map((event) => {
            const text = event.isDecryptionFailure() ? "an undecryptable message" : event.getContent().body ?? "redacted";
            return `${text} by ${event.getSender()}`;
        });
        return `the timeline, which ends with: ${entries.join("; ") || "nothing"}`;
    }

    async #entry(event) {
        await event.getDecryptionPromise(); // until then it is neither readable nor undecryptable
        const room = this.#room;
        const [id, content] = [event.getId(), event.getContent()];
        const [failed, redacted] = [event.isDecryptionFailure(), event.isRedacted()];
        const found = room.relations.getChildEventsForEvent(id, "m.annotation", "m.reaction");
        const reactions = (found?.getSortedAnnotationsByKey() ?? []).map(([key, events]) => [
            key,
            [...events].map((reaction) => reaction.getSender()),
        ]);
        const relation = event.getWireContent()["m.relates_to"] ?? content["m.relates_to"];
        const issues = failed ? ["undecryptable"] : event.isEncrypted() || redacted ? [] : ["unencrypted"];
        return {
            user: event.getSender(),
            message: failed || redacted ? "" : (content.body ?? ""),
            e2e_issues: issues,
            event_id: id,
            kind: KINDS[content.msgtype] ?? "other",
            encrypted: event.isEncrypted(),
            edited: Boolean(event.replacingEventId()),
            redacted,
            reactions: Object.fromEntries(reactions),
            shield: await this.#shield(event),
            read_by: room.getUsersReadUpTo(event),
            ...(failed && { undecryptable: event.decryptionFailureReason ?? "unknown" }),
            ...(relation?.["m.in_reply_to"] && !relation.is_falling_back && { reply_to: relation["m.in_reply_to"].event_id }),
            ...(relation?.rel_type === "m.thread" && { thread: relation.event_id }),
        };
    }

    async #shield(event) {
        if (event.isDecryptionFailure() || !event.isEncrypted()) return "grey";
        const info = await this.#crypto.getEncryptionInfoForEvent(event);
        return SHIELDS[info?.shieldColour ?? 1];
    }

    #follow(request) {
        this.#request = request;
        this.#verified = undefined;
    }

    /** Run the SAS protocol once; its end is awaited where it matters. */
    #verify() {
        if (this.#verified) return;
        this.#verified = this.#request.verifier.verify();
        this.#verified.catch(() => {});
    }

    async #accept() {
        const asked = () => this.#state.phase === "requested" && !this.#request.initiatedByMe && this.#request;
        const request = await until(asked, "a verification request", () => this.#state);
        await request.accept();
        await until(() => request.phase >= VerificationPhase.Ready, "the request to be ready", () => this.#state);
        return request;
    }

    #sas() {
        return this.#compared("emoji", (verifier) => verifier.getShowSasCallbacks());
    }

    /** Wait for what is to be compared with the other side's. */
    #compared(what, callbacks) {
        const shown = () => {
            if (this.#state.phase === "cancelled") {
                throw new Error(`the verification was cancelled: ${this.#state.cancel_code}`);
            }
            if (this.#request?.verifier) this.#verify();
            return this.#request?.verifier && callbacks(this.#request.verifier);
        };
        return until(shown, what, () => this.#state);
    }

    async #cancelled() {
        await until(() => this.#state.phase === "cancelled", "the verification to be cancelled", () => this.#state);
    }

    get #state() {
        const request = this.#request;
        if (!request) return { phase: "none" };
        const phase = ["requested", "requested", "ready", "started", "cancelled", "done"][request.phase - 1];
        return phase === "cancelled" ? { phase, cancel_code: request.cancellationCode ?? "" } : { phase };
    }

    async #backUp(key) {
        this.#secret = key.privateKey;
        await this.#crypto.bootstrapSecretStorage({
            setupNewSecretStorage: true,
            setupNewKeyBackup: true,
            createSecretStorageKey: async () => key,
        });
        await until(() => this.#crypto.getActiveSessionBackupVersion(), "an active key backup");
        // The SDK uploads up to 10 s later.
        const keys = (await this.#crypto.exportRoomKeys()).length;
        const prefix = { prefix: "/_matrix/client/v3" };
        const request = () => this.#client.http.authedRequest("GET", "/room_keys/version", undefined, undefined, prefix);
        const uploaded = async () => (await request()).count >= keys;
        await until(uploaded, `${keys} room keys in the backup`);
    }

    async #restore(key) {
        const [id, info] = (await this.#client.secretStorage.getKey()) ?? [];
        if (!info) throw new Error("the account has no secret storage");
        if (!(await this.#client.secretStorage.checkKey(key, info))) throw new Error("the recovery key is not the right one");
        this.#secret = key;
        // After a reset, the key and each secret that it opens come one by one.
        const openable = async () => {
            const keys = await this.#client.secretStorage.isStored("m.cross_signing.master");
            return keys === null || id in keys;
        };
        await until(openable, "the secrets to be encrypted with the key");
        // The private keys are compared with the public ones, which a new device may not have yet.
        await this.#crypto.userHasCrossSigningKeys(this.#client.getUserId(), true);
        // Fetches the identity from secret storage and signs this device with it.
        await this.#crypto.bootstrapCrossSigning({});
        // The SDK may still know the backup before.
        await this.#crypto.checkKeyBackupAndEnable();
        await this.#crypto.loadSessionBackupPrivateKeyFromSecretStorage();
        await this.#crypto.checkKeyBackupAndEnable();
        await this.#crypto.restoreKeyBackup();
        // Takes over what was sent to the dehydrated device, and makes a new one.
        if (await this.#client.secretStorage.isStored("org.matrix.msc3814")) await this.#crypto.startDehydration();
    }
}

const ENCRYPTION = {
    type: "m.room.encryption",
    state_key: "",
    content: { algorithm: "m.megolm.v1.aes-sha2" },
};

/** Room version 12 gives its creators an infinite power level, which JSON cannot carry. */
const level = (value) => (Number.isFinite(value) ? value : Number.MAX_SAFE_INTEGER);
