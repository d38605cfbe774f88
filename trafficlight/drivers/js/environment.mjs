// What matrix-js-sdk expects and Node lacks; imported before it.
import "fake-indexeddb/auto";

// Node 20 lacks it, and without it the SDK's sync ends silently.
Promise.withResolvers ??= () => {
    let resolve, reject;
    const promise = new Promise((...both) => ([resolve, reject] = both));
    return { promise, resolve, reject };
};

// Standard output is for responses; the SDK's loggers write to the console.
for (const level of ["debug", "info", "log", "trace"]) console[level] = () => {};
console.warn = console.error;
