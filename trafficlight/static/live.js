// Keeps the parts of a page that are marked `data-live` up to date. Without it, a reload does the same.
//
// While the session runs, the page waits on its event stream (`data-events`) and fetches itself only after an
// event. Otherwise, and while the stream fails, it polls every `data-refresh` seconds.
/* global Idiomorph */
"use strict";
(() => {
  const THROTTLE = 2_000; // ms between two fetches of the page
  const LONGEST_BACKOFF = 30_000; // ms
  const SILENCE = 45_000; // ms without even an empty line, of which there is one every 15 s: the stream is dead
  const body = document.body;
  const news = document.getElementById("news");
  // The page stays with its session, also if it was opened as the latest one's and another one starts.
  if (body.dataset.page) history.replaceState(history.state, "", body.dataset.page + location.search + location.hash);
  // What each part was when it was rendered, without what the reader did to it, and when that was.
  const rendered = new Map();
  for (const part of document.querySelectorAll("[data-live]")) note(part);
  let last = null;
  let fetched = -THROTTLE;
  let scheduled = false;
  let after = null; // the last event seen
  let stream = null;

  function note(part) {
    rendered.set(part.id, { content: part.outerHTML, at: performance.now() });
  }

  // Change a part into what it is now. Focus, scrolled boxes and unchanged text stay, and so does what the reader opened.
  function adopt(fresh, old) {
    Idiomorph.morph(old, fresh, {
      ignoreActiveValue: true,
      callbacks: { beforeAttributeUpdated: (name, node) => !(name === "open" && node.tagName === "DETAILS") },
    });
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
    note(fresh);
    place.after(document.importNode(fresh, true));
    return true;
  }

  // Show the current page. Return whether all of it could be shown.
  async function refresh() {
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.status >= 400) throw new Error(String(answer.status));
    const text = await answer.text();
    if (text === last) return true;
    const page = new DOMParser().parseFromString(text, "text/html");
    const there = [...page.querySelectorAll("[data-live]")];
    document.title = page.title;
    for (const name of ["refresh", "events"]) {
      if (page.body.dataset[name] === undefined) delete body.dataset[name];
      else body.dataset[name] = page.body.dataset[name];
    }
    let all = true;
    for (const fresh of there) {
      const old = document.getElementById(fresh.id);
      if (!old) {
        if (insert(fresh)) continue;
        location.reload(); // it is another page now: a session has started
        return true;
      }
      if (fresh.outerHTML === rendered.get(fresh.id).content) continue;
      if (busy(old)) {
        all = false;
        continue;
      }
      note(fresh);
      adopt(document.importNode(fresh, true), old);
    }
    for (const old of document.querySelectorAll("[data-live]")) {
      if (page.getElementById(old.id)) continue;
      if (busy(old)) all = false;
      else old.remove();
    }
    last = all ? text : null;
    return all;
  }

  async function update() {
    fetched = performance.now();
    try {
      const all = await refresh();
      news.textContent = "";
      if (!all) schedule(THROTTLE);
    } catch {
      news.textContent = "not up to date: the coordinator does not answer";
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

  // Durations that increase go on between two fetches.
  setInterval(() => {
    if (document.hidden) return;
    for (const part of document.querySelectorAll("[data-live]")) {
      if (busy(part)) continue;
      const at = (rendered.get(part.id) || {}).at;
      for (const element of part.querySelectorAll("[data-seconds]")) {
        element.textContent = duration(Number(element.dataset.seconds) + (performance.now() - at) / 1000);
      }
    }
  }, 1_000);

  loop();
})();
