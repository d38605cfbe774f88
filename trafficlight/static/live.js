// Keeps the parts of a page that are marked `data-live` up to date. Without it, a reload does the same.
//
// While the session runs, the page waits on its event stream (`data-events`) and fetches itself only after an
// event. Otherwise, and while the stream fails, it polls every `data-refresh` seconds.
/* global Idiomorph */
"use strict";
(() => {
  const THROTTLE = 2_000; // ms between two fetches of the page
  const LONGEST_BACKOFF = 30_000; // ms
  const SLICE = 100; // pieces of a part that a task changes
  const SILENCE = 45_000; // ms without even an empty line, of which there is one every 15 s: the stream is dead
  const SILENT = "not up to date: the coordinator does not answer";
  const body = document.body;
  const news = document.getElementById("news");
  // The page stays with its session, also if it was opened as the latest one's and another one starts.
  if (body.dataset.page) history.replaceState(history.state, "", body.dataset.page + location.search + location.hash);
  let fetched = -THROTTLE;
  let scheduled = false;
  let after = null; // the last event seen
  let stream = null;

  // Change an element into what it is now. Focus, scrolled boxes and unchanged text stay, and so do what the reader
  // opened, the tab stop of a heat map, and pieces that the answer leaves out because they are the same.
  function morph(fresh, old) {
    Idiomorph.morph(old, document.importNode(fresh, true), {
      callbacks: {
        beforeNodeMorphed: (_, node) => node.dataset?.same === undefined,
        beforeAttributeUpdated: (name, node) =>
          !(name === "open" && node.tagName === "DETAILS") && !(name === "tabindex" && node.closest("[data-grid]")),
      },
    });
  }

  // Take the pieces that are there before and after out of a part, and return those that have changed.
  function divide(fresh) {
    const changed = [];
    for (const piece of fresh.querySelectorAll(":is(td, tr, li)[id]:not([data-same])")) {
      const place = document.getElementById(piece.id);
      if (!place) continue;
      if (!place.isEqualNode(piece)) changed.push(piece.cloneNode(true));
      piece.replaceChildren();
      piece.dataset.same = "";
    }
    return changed;
  }

  // Show a part. Return whether all of it could be shown, which takes several tasks if it is much.
  async function adopt(fresh, old) {
    const version = fresh.dataset.live;
    fresh.dataset.live = old.dataset.live = ""; // until all is shown: all of it is sent again if this ends early
    let changed = [...fresh.children].map(({ content }) => content?.firstElementChild);
    if (fresh.dataset.pieces === undefined) {
      changed = divide(fresh);
      await pause();
      if (busy(old)) return false;
      morph(fresh, old);
    }
    for (const [number, piece] of changed.entries()) {
      if (number && number % SLICE === 0) {
        await pause();
        if (busy(old)) return false;
      }
      const place = document.getElementById(piece.id);
      if (!place) return false;
      if (place.contains(document.activeElement) || place.querySelector('details, [tabindex="0"]')) morph(piece, place);
      else place.replaceWith(document.importNode(piece, true));
    }
    old.dataset.live = version;
    return true;
  }

  function pause() {
    return new Promise((done) => setTimeout(done));
  }

  function busy(part) {
    // Selected text, a field that is edited and a playing video must not vanish.
    const edited = document.activeElement;
    if (edited && edited.tagName === "INPUT" && part.contains(edited)) return true;
    const selection = getSelection();
    if (selection && !selection.isCollapsed && part.contains(selection.anchorNode)) return true;
    return [...part.querySelectorAll("video, audio")].some((film) => !film.paused);
  }

  // Show a part that the page did not have before, where it has it now. Return false if there is no such place.
  function insert(fresh) {
    const before = fresh.previousElementSibling;
    const place = before && document.getElementById(before.id);
    if (!place) return false;
    place.after(document.importNode(fresh, true));
    return true;
  }

  // Show the current page, of which the coordinator sends what has changed. Return whether all of it could be shown.
  async function refresh() {
    const versions = [...document.querySelectorAll("[data-live]")].map((part) => `${part.id}=${part.dataset.live}`);
    const headers = { Accept: "text/html", "Live-Parts": versions.join(" ") };
    const answer = await fetch(location.href, { headers, cache: "no-store" });
    if (answer.status >= 400) throw new Error(String(answer.status));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    document.title = page.title;
    for (const name of ["refresh", "events"]) {
      if (page.body.dataset[name] === undefined) delete body.dataset[name];
      else body.dataset[name] = page.body.dataset[name];
    }
    let all = true;
    for (const fresh of page.querySelectorAll("[data-live]")) {
      const old = document.getElementById(fresh.id);
      if (!old) {
        if (insert(fresh)) continue;
        location.reload(); // it is another page now: a session has started
        return true;
      }
      if (fresh.dataset.live === old.dataset.live) continue;
      await pause();
      if (busy(old) || !await adopt(fresh, old)) all = false;
    }
    for (const old of document.querySelectorAll("[data-live]")) {
      if (page.getElementById(old.id)) continue;
      if (busy(old)) all = false;
      else old.remove();
    }
    count();
    return all;
  }

  let updated = Promise.resolve();

  // One after the other: an answer holds what has changed since its request.
  function update() {
    updated = updated.then(updateNow);
    return updated;
  }

  async function updateNow() {
    fetched = performance.now();
    try {
      const all = await refresh();
      if (news.textContent === SILENT) news.textContent = ""; // what a form was answered stays
      if (!all) schedule(THROTTLE);
    } catch {
      news.textContent = SILENT;
    }
  }

  function schedule(delay = 0) {
    if (scheduled) return;
    scheduled = true;
    setTimeout(async () => {
      scheduled = false;
      await update();
    }, Math.max(delay, fetched + THROTTLE - performance.now()));
  }

  function concerns(line) {
    if (!line.trim()) return false;
    const event = JSON.parse(line);
    after = event.sequence;
    return !body.dataset.case || !event.case || event.case === body.dataset.case;
  }

  // Wait on the session's event stream until it ends, which is when the session has ended.
  async function follow(connected) {
    stream = new AbortController();
    const url = new URL(body.dataset.events, location.href);
    if (after !== null) url.searchParams.set("after", after);
    const answer = await fetch(url, { signal: stream.signal });
    if (!answer.ok) throw new Error(String(answer.status));
    connected();
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const timer = setTimeout(() => stream.abort(), SILENCE);
      const { value, done } = await reader.read().finally(() => clearTimeout(timer));
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop();
      if (lines.filter(concerns).length) schedule();
    }
  }

  function sleep(time) {
    return new Promise((done) => setTimeout(done, time));
  }

  function visible() {
    return new Promise((done) => {
      if (!document.hidden) { done(); return; }
      document.addEventListener("visibilitychange", () => done(visible()), { once: true });
    });
  }

  async function loop() {
    let failures = 0;
    let retry = 0; // when to open the stream again
    for (;;) {
      await visible();
      let ended = false;
      if (body.dataset.events && performance.now() >= retry) {
        try {
          await follow(() => { failures = 0; });
          ended = true;
          retry = performance.now() + THROTTLE;
        } catch {
          failures += 1;
          retry = performance.now() + Math.min(LONGEST_BACKOFF, 1_000 * 2 ** failures);
        }
      }
      if (document.hidden) await visible();
      else if (!ended) await sleep((Number(body.dataset.refresh) || 5) * 1_000 * (1 + Math.random() / 4));
      await update();
    }
  }

  // A browser opens at most six connections to a server: hidden pages do not hold one.
  document.addEventListener("visibilitychange", () => {
    if (document.hidden && stream) stream.abort();
  });

  function duration(seconds) {
    if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
    if (seconds < 60) return `${seconds.toFixed(1)} s`;
    const total = Math.round(seconds);
    const two = (number) => String(number).padStart(2, "0");
    const minutes = Math.floor(total / 60);
    return minutes < 60
      ? `${minutes} min ${two(total % 60)} s`
      : `${Math.floor(minutes / 60)} h ${two(minutes % 60)} min`;
  }

  // Durations that increase go on between two fetches, from what they were when they came.
  const came = new WeakMap();

  function count() {
    const now = Date.now(); // which goes on while the machine sleeps
    for (const part of document.querySelectorAll("[data-live]")) {
      const still = document.hidden || busy(part);
      for (const element of part.querySelectorAll("[data-seconds]")) {
        const { seconds } = element.dataset;
        if (came.get(element)?.seconds !== seconds) came.set(element, { seconds, at: now });
        if (!still) element.textContent = duration(Number(seconds) + (now - came.get(element).at) / 1000);
      }
    }
  }

  count();
  setInterval(count, 1_000);
  loop();
})();
