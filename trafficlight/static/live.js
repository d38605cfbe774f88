// Keeps the parts of a page that are marked `data-live` up to date. Without it a reload does the same.
"use strict";
(() => {
  const seconds = Number(document.body.dataset.refresh) || 5;
  const news = document.getElementById("news");
  let last = null;
  // What each part was when it came: a reader's open details are no news.
  const came = new Map();
  for (const part of document.querySelectorAll("[data-live]")) came.set(part.id, part.outerHTML);

  function adopt(fresh, old) {
    const open = new Map();
    for (const detail of old.querySelectorAll("details[id]")) open.set(detail.id, detail.open);
    for (const detail of fresh.querySelectorAll("details[id]")) {
      if (open.has(detail.id)) detail.open = open.get(detail.id);
    }
    const places = new Map();
    for (const box of old.querySelectorAll("[id].scroll")) places.set(box.id, [box.scrollLeft, box.scrollTop]);
    const focused = old.contains(document.activeElement) && document.activeElement.getAttribute("href");
    old.replaceWith(fresh);
    for (const [id, [left, top]] of places) {
      const box = document.getElementById(id);
      if (box) box.scrollTo(left, top);
    }
    if (focused) {
      for (const link of fresh.querySelectorAll("a[href]")) {
        if (link.getAttribute("href") === focused) { link.focus({ preventScroll: true }); break; }
      }
    }
  }

  function busy(part) {
    // Text that somebody marks, and a film that plays, must not vanish.
    const selection = getSelection();
    if (selection && !selection.isCollapsed && part.contains(selection.anchorNode)) return true;
    return [...part.querySelectorAll("video, audio")].some((film) => !film.paused);
  }

  async function refresh() {
    if (document.hidden) return;
    const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
    if (answer.status >= 400) throw new Error(String(answer.status));
    const text = await answer.text();
    if (text === last) return;
    const page = new DOMParser().parseFromString(text, "text/html");
    document.title = page.title;
    document.body.dataset.refresh = page.body.dataset.refresh;
    const here = [...document.querySelectorAll("[data-live]")];
    const there = [...page.querySelectorAll("[data-live]")];
    if (here.map((part) => part.id).join() !== there.map((part) => part.id).join()) {
      // A part has come or gone: what the user typed lies outside of them, so a reload loses nothing else.
      const typing = document.activeElement && document.activeElement.tagName === "INPUT";
      if (!typing) location.reload();
      return;
    }
    let all = true;
    here.forEach((part, index) => {
      const fresh = there[index];
      const content = fresh.outerHTML;
      if (content === came.get(part.id)) return;
      if (busy(part)) {
        all = false;
        return;
      }
      came.set(part.id, content);
      adopt(document.importNode(fresh, true), part);
    });
    last = all ? text : null;
  }

  async function loop() {
    try {
      await refresh();
      news.textContent = "";
    } catch {
      news.textContent = "not up to date: the lab does not answer";
    }
    setTimeout(loop, (Number(document.body.dataset.refresh) || seconds) * 1000);
  }
  setTimeout(loop, seconds * 1000);
})();
