// Element's user interface as a page. `globalThis.app` is how the driver sees what it shows.
import { getEmojiFromUnicode } from "@matrix-org/emojibase-bindings";
import SdkConfig from "matrix-react-sdk/src/SdkConfig";
import { version } from "matrix-react-sdk/package.json";

const TILES = [".mx_RoomView_MessageList", ".mx_ThreadView"].map((list) => `${list} .mx_EventTile[data-event-id]`);
const SHOWN = ["m.room.message", "m.room.encrypted"];
const ASKED = "m.key.verification.request";
const KINDS = { "m.text": "text", "m.notice": "text", "m.emote": "text", "m.image": "image", "m.file": "file" };
const PHASES = ["requested", "requested", "ready", "started", "cancelled", "done"];
const SHIELDS = { normal: "grey", warning: "red", decryption_failure: "grey" };

// Set by `start`, because its modules read the configuration when they are loaded.
let peg, stores, request;
// The users whom the page has shown as verified.
const verified = new Set();

const client = () => peg?.get();
const crypto = () => client().getCrypto();
const rooms = (membership) => client().getRooms().filter((room) => room.getMyMembership() === membership);
const room = () => client()?.getRoom(stores.roomViewStore.getRoomId());

/** The text that a message shows. */
function text(tile) {
    const bodies = [...tile.querySelectorAll(".mx_EventTile_body")];
    // Not that of the message that it replies to.
    return bodies.find((body) => !body.closest(".mx_ReplyChain"))?.innerText;
}

function entry(tile, event) {
    const [content, failed] = [event.getContent(), event.isDecryptionFailure()];
    const [encrypted, redacted] = [event.isEncrypted(), Boolean(tile.querySelector(".mx_RedactedBody"))];
    const icon = /e2eIcon_(\w+)/.exec(tile.querySelector(".mx_EventTile_e2eIcon")?.className)?.[1];
    const annotations = room().relations.getChildEventsForEvent(event.getId(), "m.annotation", "m.reaction");
    const keys = [...tile.querySelectorAll(".mx_ReactionsRowButton_content")].map((shown) => shown.textContent);
    const reactions = keys.map((key) => {
        const [, found] = annotations?.getSortedAnnotationsByKey().find(([one]) => one === key) ?? [key, []];
        return [key, [...found].map((reaction) => reaction.getSender())];
    });
    const kind = KINDS[content.msgtype] ?? "other";
    const message = kind === "text" ? text(tile) : content.body;
    return {
        user: event.getSender(),
        message: failed || redacted ? "" : (message ?? ""),
        e2e_issues: failed ? ["undecryptable"] : encrypted || redacted ? [] : ["unencrypted"],
        kind,
        encrypted,
        edited: Boolean(tile.querySelector(".mx_EventTile_edited")),
        redacted,
        reactions: Object.fromEntries(reactions),
        shield: SHIELDS[icon] ?? "none",
        read_by: room().getUsersReadUpTo(event),
        ...(!event.status && { event_id: event.getId() }),
        ...(failed && { undecryptable: event.decryptionFailureReason ?? "unknown" }),
        ...(event.replyEventId && { reply_to: event.replyEventId }),
        ...(event.threadRootId && !event.isThreadRoot && { thread: event.threadRootId }),
    };
}

globalThis.app = {
    version,

    /** Show the screen `login` or `register` for a homeserver, or what is logged in there. */
    async start(homeserver, screen) {
        // Announcements lie over what is to be clicked.
        SdkConfig.put({ brand: "Element", default_theme: "light", features: { feature_release_announcement: false } });
        const load = (module) => module.then((loaded) => loaded.default);
        const [Platform, PlatformPeg, Discovery, Chat, React, DOM] = await Promise.all([
            load(import("matrix-react-sdk/src/BasePlatform")),
            load(import("matrix-react-sdk/src/PlatformPeg")),
            load(import("matrix-react-sdk/src/utils/AutoDiscoveryUtils")),
            load(import("matrix-react-sdk/src/components/structures/MatrixChat")),
            load(import("react")),
            load(import("react-dom")),
        ]);
        PlatformPeg.set(
            new (class extends Platform {
                getConfig = async () => undefined;
                getAppVersion = async () => version;
                getDefaultDeviceDisplayName = () => "Element";
                getHumanReadableName = () => "a page";
                requestNotificationPermission = async () => "denied";
                reload = () => location.reload();
            })(),
        );
        await (await import("matrix-react-sdk/src/languageHandler")).setLanguage("en");
        const config = await Discovery.validateServerConfigWithStaticUrls(homeserver, undefined, true);
        SdkConfig.add({ validated_server_config: { ...config, isDefault: true } });
        peg = (await import("matrix-react-sdk/src/MatrixClientPeg")).MatrixClientPeg;
        stores = (await import("matrix-react-sdk/src/contexts/SDKContext")).SdkContextClass.instance;
        const attributes = {
            config: SdkConfig.get(),
            onNewScreen() {},
            onTokenLoginCompleted() {},
            ...(screen && { initialScreenAfterLogin: { screen } }),
        };
        DOM.render(React.createElement(Chat, attributes), document.querySelector("main"));
        const dispatcher = (await import("matrix-react-sdk/src/dispatcher/dispatcher")).default;
        dispatcher.register(({ action }) => {
            if (action !== "client_started") return;
            client().on("crypto.verificationRequestReceived", (asked) => (request = asked));
        });
    },

    loggedIn: () => Boolean(document.querySelector(".mx_MatrixChat")),

    rooms: (membership) => rooms(membership).map((room) => room.roomId),

    /** The invites that wait for an answer, oldest first. */
    invites: () =>
        rooms("invite").map((room) => {
            const event = room.currentState.getStateEvents("m.room.member", client().getUserId());
            return { room_id: room.roomId, inviter: event.getSender(), name: room.name };
        }),

    /** The open room, once it can be written in. */
    room() {
        const opened = document.querySelector(".mx_SendMessageComposer") && room();
        return opened && { id: opened.roomId, name: opened.name, encrypted: opened.hasEncryptionStateEvent() };
    },

    state() {
        const members = room().currentState.getMembers().map((member) => [
            member.userId,
            {
                membership: member.membership,
                display_name: member.rawDisplayName,
                power_level: Number.isFinite(member.powerLevel) ? member.powerLevel : Number.MAX_SAFE_INTEGER,
            },
        ]);
        const content = (type) => room().currentState.getStateEvents(type, "")?.getContent() ?? {};
        const successor = content("m.room.tombstone").replacement_room;
        return {
            room_id: room().roomId,
            name: room().name,
            topic: content("m.room.topic").topic,
            encrypted: room().hasEncryptionStateEvent(),
            version: room().getVersion(),
            history_visibility: room().getHistoryVisibility(),
            members: Object.fromEntries(members),
            ...(successor && { successor }),
        };
    },

    /** The name that the room shows for a user. */
    member: (user) => room().getMember(user).rawDisplayName,

    /** What the picker shows for a reaction, and calls it. */
    emoji: (key) => getEmojiFromUnicode(key),

    typing: () =>
        room()
            .getMembers()
            .filter((member) => member.typing && member.userId !== client().getUserId())
            .map((member) => member.userId),

    /** The state of the latest verification. */
    verification() {
        const { member, verificationRequest } = stores.rightPanelStore.currentCard.state ?? {};
        if (verificationRequest) request = verificationRequest;
        else if (member && !request?.pending) {
            request = crypto().findVerificationRequestDMInProgress(room().roomId, member.userId) ?? request;
        }
        if (!request) return { phase: "none" };
        const phase = PHASES[request.phase - 1];
        return phase === "cancelled" ? { phase, cancel_code: request.cancellationCode ?? "" } : { phase };
    },

    /** Whether the user of the latest verification is verified, as known since the call before. */
    trusted() {
        const user = request.otherUserId;
        app.trust(user).then((trust) => verified[trust === "verified" ? "add" : "delete"](user));
        return verified.has(user);
    },

    async trust(user) {
        const status = await crypto().getUserVerificationStatus(user);
        if (status.isCrossSigningVerified()) return "verified";
        if (status.wasCrossSigningVerified() || status.needsUserApproval) return "changed";
        return (await crypto().userHasCrossSigningKeys(user, true)) ? "unverified" : "unknown";
    },

    async devices() {
        const { devices } = await client().getDevices();
        return Promise.all(
            devices.map(async ({ device_id, display_name }) => {
                const status = await crypto().getDeviceVerificationStatus(client().getUserId(), device_id);
                return { device_id, display_name: display_name ?? "", verified: Boolean(status?.isVerified()) };
            }),
        );
    },

    /** The messages that the open room shows. */
    timeline: () =>
        [...document.querySelectorAll(TILES)]
            .map((tile) => [tile, room()?.findEventById(tile.dataset.eventId)])
            .filter(([, event]) => SHOWN.includes(event?.getType()) && event.getContent().msgtype !== ASKED)
            .map(([tile, event]) => entry(tile, event)),
};

// That of a killed browser would last for 30 seconds; no other page shares this storage.
localStorage.removeItem("react_sdk_session_lock_ping");
const stored = localStorage.getItem("mx_hs_url");
if (stored) await app.start(stored);
else document.querySelector("main").innerHTML = '<p id="nobody">Nobody is logged in.';
