// Builds Element's user interface from its sources, into the folder build, and deletes what it is built from.
import { cp, mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join, resolve } from "node:path";
import { build } from "esbuild";
import postcss from "postcss";

const require = createRequire(import.meta.url);
const MODULES = resolve("node_modules");
const ELEMENT = join(MODULES, "matrix-react-sdk");
const WORKERS = ["indexeddb", "blurhash", "playback"];
const FILES = [".png", ".gif", ".ogg", ".mp3", ".woff", ".woff2", ".ttf"];
const STYLES = ["import", "mixins", "simple-vars", "nested", "easings", "hexrgba"];

const element = {
    name: "element",
    setup({ onResolve, onLoad }) {
        // What webpack's loaders would bring: the list of languages, recording, the export of a room.
        const left = /^(\$webapp|opus-recorder|!!raw-loader!)|\/RecorderWorklet$/;
        onResolve({ filter: left }, ({ path }) => ({ path, namespace: "left out" }));
        onLoad({ filter: /./, namespace: "left out" }, ({ path }) => ({
            contents: `export default ${JSON.stringify(path.replace("$webapp/", ""))}`,
        }));
        onLoad({ filter: /WorkerFactory\.ts$/ }, async ({ path }) => ({
            contents: (await readFile(path, "utf8")).replace(
                /new URL\("\.\/(\w+\.worker)\.ts", import\.meta\.url\)/,
                '"/workers/$1.js"',
            ),
            loader: "ts",
        }));
        // Both the address and a component.
        onLoad({ filter: /\.svg$/ }, async ({ path }) => ({
            contents: `import { createElement } from "react";
                const url = ${JSON.stringify(`data:image/svg+xml;base64,${await readFile(path, "base64")}`)};
                export const Icon = (attributes) => createElement("img", { ...attributes, src: url });
                export default url;`,
            resolveDir: MODULES,
        }));
    },
};

const options = {
    bundle: true,
    format: "esm",
    minify: true,
    outdir: "build",
    logLevel: "error",
    mainFields: ["browser", "module", "main"],
    define: { global: "globalThis", "process.env.NODE_ENV": '"production"', "process.env": "{}", process: "{}" },
    publicPath: "/",
    loader: Object.fromEntries(FILES.map((suffix) => [suffix, "file"])),
    // Node's modules of these names would be meant otherwise.
    alias: Object.fromEntries(["buffer", "events", "util"].map((name) => [name, join(MODULES, name)])),
};
await writeFile("buffer.js", 'export { Buffer } from "buffer";');
const code = { ...options, inject: ["buffer.js"], plugins: [element], loader: { ...options.loader, ".css": "empty" } };
await build({ ...code, entryPoints: ["page.js"] });
const workers = WORKERS.map((name) => join(ELEMENT, "src/workers", `${name}.worker.ts`));
await build({ ...code, entryPoints: workers, outdir: "build/workers" });

const theme = join(ELEMENT, "res/themes/light/css/light.pcss");
const plugins = STYLES.map((name) => require(`postcss-${name}`)());
const parser = require("postcss-scss");
const { css } = await postcss(plugins).process(await readFile(theme), { from: theme, parser });
const sheet = join(dirname(theme), "theme.css");
await writeFile(sheet, css.replaceAll("$(res)", join(ELEMENT, "res")));
await build({ ...options, entryPoints: [sheet], loader: { ...options.loader, ".svg": "dataurl" } });

await mkdir("build/i18n", { recursive: true });
await cp(join(ELEMENT, "src/i18n/strings/en_EN.json"), "build/i18n/en_EN.json");
await writeFile("build/i18n/languages.json", JSON.stringify({ en: "en_EN.json" }));

// It takes ten times the room of what it was for.
for (const name of await readdir(MODULES)) {
    if (name !== "playwright-core") await rm(join(MODULES, name), { recursive: true });
}
