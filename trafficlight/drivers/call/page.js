// A host of the widget that Element Call is: shows it in a frame, and does for it what a Matrix client does.
// `globalThis.app` is how the driver sees it. See also camera.js.
import { ClientWidgetApi, OpenIDRequestState, Widget, WidgetDriver } from "matrix-widget-api";
import { version } from "./node_modules/@element-hq/element-call-embedded/package.json";

const MEMBER = "org.matrix.msc3401.call.member";
const DELAYED = "unstable/org.matrix.msc4140/delayed_events";
const SYNC_MS = 20_000;
const RETRY_MS = 500;

let session = JSON.parse(localStorage.getItem("session"));
let call;
let number = 0;

const part = encodeURIComponent;
const domain = () => session.user_id.slice(session.user_id.indexOf(":") + 1);

async function api(method, path, body, { signal } = {}) {
    const headers = session ? { authorization: `Bearer ${session.access_token}` } : {};
    const url = `${session?.url ?? body.url}/_matrix/client/${path}`;
    const answer = await fetch(url, { method, headers, signal, body: body && JSON.stringify(body) });
    const content = await answer.json();
    if (answer.ok) return content;
    const words = `${method} ${path}: ${answer.status} ${content.errcode}: ${content.error}`;
    throw Object.assign(new Error(words), { status: answer.status, content });
}

/** What Element Call asks its host for. */
class Host extends WidgetDriver {
    constructor(room) {
        super();
        this.room = room;
        this.state = new Map();
        this.timeline = [];
    }

    async validateCapabilities(requested) {
        return requested;
    }

    #path(type, key) {
        const place = `v3/rooms/${part(this.room)}`;
        if (key !== null && key !== undefined) return `${place}/state/${part(type)}/${part(key)}`;
        return `${place}/send/${part(type)}/${Date.now()}-${number++}`;
    }

    async sendEvent(type, content, key) {
        const { event_id: eventId } = await api("PUT", this.#path(type, key), content);
        return { roomId: this.room, eventId };
    }

    async sendDelayedEvent(delay, type, content, key) {
        const path = `${this.#path(type, key)}?org.matrix.msc4140.delay=${delay}`;
        const { delay_id: delayId } = await api("PUT", path, content);
        return { roomId: this.room, delayId };
    }

    async cancelScheduledDelayedEvent(id) {
        await api("POST", `${DELAYED}/${part(id)}`, { action: "cancel" });
    }

    async restartScheduledDelayedEvent(id) {
        await api("POST", `${DELAYED}/${part(id)}`, { action: "restart" });
    }

    async sendScheduledDelayedEvent(id) {
        await api("POST", `${DELAYED}/${part(id)}`, { action: "send" });
    }

    async readRoomTimeline(_room, type, _msgtype, key, limit) {
        const wanted = (event) => event.type === type && (key === undefined || event.state_key === key);
        return this.timeline.filter(wanted).reverse().slice(0, limit || undefined);
    }

    async readRoomState(_room, type, key) {
        const wanted = (event) => event.type === type && (key === undefined || event.state_key === key);
        return [...this.state.values()].filter(wanted);
    }

    async readStickyEvents() {
        return [];
    }

    async readEventRelations() {
        return { chunk: [] };
    }

    async getRtcTransports() {
        return { rtc_transports: [{ type: "livekit", livekit_service_url: document.body.dataset.livekit }] };
    }

    async askOpenID(observer) {
        const token = await api("POST", `v3/user/${part(session.user_id)}/openid/request_token`, {});
        observer.update({ state: OpenIDRequestState.Allowed, token });
    }

    getKnownRooms() {
        return [this.room];
    }

    processError({ status, content }) {
        if (!content) return undefined;
        return { matrix_api_error: { http_status: status, http_headers: {}, url: "", response: content } };
    }
}

/** An open call: the frame, and what keeps it informed. */
class Call {
    #host;
    #stop = new AbortController();
    #widget;
    joined = false;

    constructor(room) {
        this.room = room;
        this.#host = new Host(room);
        this.frame = document.createElement("iframe");
        this.frame.allow = "camera; microphone; display-capture; autoplay";
        document.body.append(this.frame); // the widget's API takes only a frame that is in the page
        const url = `${location.origin}/element-call-embedded/dist/index.html`;
        const widget = { id: "call", creatorUserId: session.user_id, type: "m.call", url, waitForIframeLoad: false };
        this.#widget = new ClientWidgetApi(new Widget(widget), this.frame, this.#host);
        this.#on("io.element.join", () => (this.joined = true));
        this.#on("im.vector.hangup", () => (this.joined = false));
        this.#on("io.element.close", () => this.close());
        for (const other of ["io.element.device_mute", "set_always_on_screen"]) this.#on(other, () => {});
        this.#widget.setViewedRoomId(room);
        this.#follow(url);
    }

    get name() {
        return this.#host.state.get("m.room.name|")?.content.name;
    }

    /** The state that says that a user is in the call. */
    memberships() {
        return [...this.#host.state.values()].filter((event) => event.type === MEMBER && event.content.application);
    }

    close() {
        this.#stop.abort();
        this.#widget.stop();
        this.frame.remove();
        call = undefined;
        history.replaceState(null, "", "/");
    }

    #on(action, act) {
        this.#widget.on(`action:${action}`, (event) => {
            event.preventDefault();
            this.#widget.transport.reply(event.detail, {});
            act();
        });
    }

    /** Read the room's state, show the widget, and hand it what comes. */
    async #follow(url) {
        const { signal } = this.#stop;
        const filter = part(JSON.stringify({ room: { rooms: [this.room], timeline: { limit: 50 } } }));
        let since = "";
        while (!signal.aborted) {
            try {
                const path = `v3/sync?filter=${filter}${since && `&timeout=${SYNC_MS}&since=${part(since)}`}`;
                const news = await api("GET", path, undefined, { signal });
                await this.#take(news.rooms?.join?.[this.room], Boolean(since));
                if (!since) this.frame.src = `${url}#?${new URLSearchParams(parameters(this.room))}`;
                since = news.next_batch;
            } catch (error) {
                if (signal.aborted) return;
                console.error(error);
                await new Promise((over) => setTimeout(over, RETRY_MS));
            }
        }
    }

    async #take(room, live) {
        const timeline = room?.timeline?.events ?? [];
        for (const event of [...(room?.state?.events ?? []), ...timeline]) {
            event.room_id = this.room;
            if (event.state_key === undefined) continue;
            this.#host.state.set(`${event.type}|${event.state_key}`, event);
            if (live) await this.#widget.feedStateUpdate(event);
        }
        this.#host.timeline.push(...timeline);
        if (live) for (const event of timeline) await this.#widget.feedEvent(event);
    }
}

const parameters = (room) => ({
    widgetId: "call",
    parentUrl: location.href,
    roomId: room,
    userId: session.user_id,
    deviceId: session.device_id,
    baseUrl: session.url,
    displayName: session.user_id,
    lang: "en",
    theme: "dark",
    header: "none",
    confineToRoom: true,
    preload: false,
    skipLobby: false,
    returnToLobby: false,
    // Its keys would need a client with encryption as the host.
    perParticipantE2EE: false,
    allowIceFallback: false,
});

function open(room) {
    call?.close();
    history.replaceState(null, "", `#${part(room)}`);
    call = new Call(room);
}

async function enter(path, body) {
    const answer = await api("POST", path, body);
    session = { ...answer, url: body.url };
    localStorage.setItem("session", JSON.stringify(session));
}

const all = (selector) => [...(call?.frame.contentDocument?.querySelectorAll(selector) ?? [])];
const first = (selector) => all(selector)[0];
const on = (control) => first(`[data-testid=incall_${control}]`)?.ariaChecked === "true";

globalThis.app = {
    version,

    /** What the camera and the screen show. */
    picture: "rgb(128, 128, 128)",
    screen: "rgb(0, 255, 0)",

    loggedIn: () => Boolean(session),

    async register(url, username, password) {
        session = null;
        await enter("v3/register", { url, username, password, auth: { type: "m.login.dummy" } });
    },

    async login(url, user, password) {
        session = null;
        await enter("v3/login", { url, type: "m.login.password", identifier: { type: "m.id.user", user }, password });
    },

    async logout() {
        call?.close();
        await api("POST", "v3/logout", {});
        localStorage.removeItem("session");
        session = null;
    },

    setDisplayName: (name) =>
        api("PUT", `v3/profile/${part(session.user_id)}/displayname`, { displayname: name }),

    /** Open the call of a name; return whether it existed. */
    async create(name) {
        const room_alias_name = name.trim().toLowerCase().replaceAll(/[^\p{L}\p{N}]+/gu, "-");
        const events = { [MEMBER]: 0, "org.matrix.msc4143.rtc.member": 0 };
        const wanted = { name, room_alias_name, preset: "public_chat", power_level_content_override: { events } };
        const created = await api("POST", "v3/createRoom", wanted).catch((error) => {
            if (error.content?.errcode !== "M_ROOM_IN_USE") throw error;
        });
        const alias = `#${room_alias_name}:${domain()}`;
        open(created?.room_id ?? (await api("POST", `v3/join/${part(alias)}`, {})).room_id);
        return !created;
    },

    /** Open the call of a permalink. */
    async join(url) {
        const [, room, query] = /#\/([^?]+)\??(.*)$/.exec(url) ?? [];
        if (!room) throw new Error(`no permalink of a room: ${url}`);
        const servers = new URLSearchParams(query).getAll("via").map(part);
        const via = servers.map((server) => `server_name=${server}&via=${server}`);
        open((await api("POST", `v3/join/${part(decodeURIComponent(room))}?${via.join("&")}`, {})).room_id);
    },

    open: () => Boolean(call),
    joined: () => Boolean(call?.joined),
    present: () => call?.memberships().some(({ sender }) => sender === session.user_id),
    shows: (selector) => Boolean(first(selector)),
    on,

    /** What the frame shows, in words. */
    text: () => (call ? first("body")?.innerText.replaceAll(/\s+/g, " ") : "no call"),

    /** What lobby and call have in common. */
    data: () => ({
        invite_url: `https://matrix.to/#/${part(call.room)}?via=${part(domain())}`,
        page_url: location.href,
        call_name: call.name,
        muted: !on("mute"),
        video_muted: !on("videomute"),
    }),
};

const opened = decodeURIComponent(location.hash.slice(1));
if (session && opened) open(opened);
document.body.classList.add("ready");
