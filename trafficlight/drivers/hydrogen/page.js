// Hydrogen as a page. `globalThis.app` is how the driver sees what it shows.
import { FeatureSet, Platform, RootViewModel, createNavigation, createRouter } from "hydrogen-view-sdk";
import { version } from "./node_modules/hydrogen-view-sdk/package.json";

const KINDS = { message: "text", image: "image", video: "file", file: "file" };
const MESSAGES = ".Timeline_scroller > ul > .Timeline_message";

const platform = new Platform({
    container: document.body,
    assetPaths: {
        downloadSandbox: "assets/download-sandbox.html",
        worker: "assets/main.js",
        // Without it, logging in fails.
        serviceWorker: "sw.js",
        olm: { wasm: "olm.wasm", legacyBundle: "olm_legacy.js", wasmBundle: "olm.js" },
    },
    config: { defaultHomeServer: "" },
});
await platform.init();
const navigation = createNavigation();
platform.setNavigation(navigation);
const urlRouter = createRouter({ navigation, history: platform.history });
urlRouter.attach();
const features = await FeatureSet.load(platform.settingsStorage);
const root = new RootViewModel({ platform, urlRouter, navigation, features });
await root.load();
platform.createAndMountRootView(root);

const middle = () => root.sessionViewModel?.activeMiddleViewModel;
const room = () => (middle()?.kind === "room" && middle().timelineViewModel ? middle() : undefined);

/** The text that a message shows. */
function text(element) {
    const body = element.querySelector(".Timeline_messageBody").cloneNode(true);
    for (const other of body.querySelectorAll("time, .ReplyPreviewView")) other.remove();
    for (const end of body.querySelectorAll("br")) end.replaceWith("\n");
    return body.textContent;
}

function entry(tile, element) {
    const event = tile._entry;
    const failed = event.eventType === "m.room.encrypted" && !event.isRedacted;
    const safe = event.isEncrypted || event.isRedacted;
    const kind = KINDS[tile.shape] ?? "other";
    // A file's name is a part of what it shows.
    const message = kind === "text" ? text(element) : event.content.body;
    return {
        user: event.sender,
        message: failed || event.isRedacted ? "" : (message ?? ""),
        e2e_issues: failed ? ["undecryptable"] : safe ? [] : ["unencrypted"],
        kind,
        encrypted: Boolean(event.isEncrypted),
        redacted: event.isRedacted,
        shield: element.classList.contains("unverified") ? "grey" : "none",
        ...(!tile.isPending && { event_id: event.id }),
        ...(failed && { undecryptable: event.decryptionError?.code ?? "unknown" }),
        ...(event.isReply && { reply_to: event.relation["m.in_reply_to"].event_id }),
    };
}

globalThis.app = {
    version,

    loggedIn: () => root.activeSection === "session",

    /** The homeserver whose ways to log in are shown. */
    homeserver: () => root.loginViewModel?.passwordLoginViewModel && root.loginViewModel.homeserver,

    /** The entries of a kind in the list of rooms: `room` or `invite`. */
    listed: (kind) =>
        [...(root.sessionViewModel?.leftPanelViewModel.tileViewModels ?? [])]
            .filter((tile) => tile.kind === kind)
            .map(({ name, url }) => ({ name, url })),

    /** The open room, once it can be written in. */
    room: () => room()?.composerViewModel?.kind === "composer" && { id: room().id, encrypted: room().isEncrypted },

    /** The messages that the open room shows. */
    timeline() {
        const shown = new Map([...document.querySelectorAll(MESSAGES)].map((one) => [one.dataset.eventId, one]));
        const tiles = [...(room()?.timelineViewModel.tiles ?? [])];
        return tiles.filter((tile) => shown.has(tile.eventId)).map((tile) => entry(tile, shown.get(tile.eventId)));
    },
};
