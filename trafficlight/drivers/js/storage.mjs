// The databases of fake-indexeddb, which are in memory, kept in a folder as a browser keeps its own: what a transaction
// has written is on the disk before it completes, so that it outlives SIGKILL.
import { mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { deserialize, serialize } from "node:v8";
import { IDBFactory, IDBTransaction } from "fake-indexeddb";

// The stores of each database, as they are on the disk.
const kept = new WeakMap();
// The databases that are kept, and where.
let current;

const dispatch = IDBTransaction.prototype.dispatchEvent;
IDBTransaction.prototype.dispatchEvent = function (event) {
    if (event.type === "complete" && this.mode !== "readonly") keep(this.db._rawDatabase, this._scope);
    return dispatch.call(this, event);
};

/** Return the databases that a folder holds, and keep them in it from now on, instead of those returned before. */
export async function databases(folder) {
    mkdirSync(folder, { recursive: true });
    const factory = new IDBFactory();
    current = { factory, folder };
    for (const file of readdirSync(folder)) {
        if (!file.endsWith(".new")) await restore(factory, deserialize(readFileSync(join(folder, file))));
    }
    return factory;
}

/** Delete the folder, and keep no databases any more. */
export function discard(folder) {
    current = undefined;
    rmSync(folder, { recursive: true, force: true });
}

async function restore(factory, { name, version, stores }) {
    const request = factory.open(name, version);
    request.onupgradeneeded = () => {
        for (const { name, keyPath, autoIncrement, indexes, records } of stores.map(deserialize)) {
            const store = request.result.createObjectStore(name, { keyPath, autoIncrement });
            for (const [name, keyPath, options] of indexes) store.createIndex(name, keyPath, options);
            for (const [key, value] of records) store.put(value, keyPath === null ? key : undefined);
        }
    };
    await new Promise((done, failed) => {
        request.onsuccess = done;
        request.onerror = () => failed(request.error);
    });
    request.result.close();
}

/** Write a database, with the present content of some of its stores: another transaction may be writing others. */
function keep(database, written) {
    if (current?.factory._databases.get(database.name) !== database) return;
    const stores = kept.get(database) ?? new Map();
    kept.set(database, stores);
    for (const name of written) {
        const store = database.rawObjectStores.get(name);
        if (store) stores.set(name, serialize(content(store)));
        else stores.delete(name);
    }
    const { name, version } = database;
    const path = join(current.folder, encodeURIComponent(name));
    writeFileSync(`${path}.new`, serialize({ name, version, stores: [...stores.values()] }));
    renameSync(`${path}.new`, path);
}

function content({ name, keyPath, autoIncrement, rawIndexes, records }) {
    const indexes = [...rawIndexes.values()].map(({ name, keyPath, unique, multiEntry }) => [
        name,
        keyPath,
        { unique, multiEntry },
    ]);
    return { name, keyPath, autoIncrement, indexes, records: [...records.values()].map(({ key, value }) => [key, value]) };
}
