// Shows the lines of a log as they are scrolled to: more of them come from the page that begins there, and those far
// away are removed. Without it, links lead from page to page.
"use strict";
(() => {
  const PAGE = 1_000; // lines
  const KEPT = 3 * PAGE;
  const NEAR = 1_500; // pixels
  const FOLLOW = 2_000; // ms
  const box = document.getElementById("lines");
  const news = document.getElementById("news");
  const follow = document.querySelector("#follow input");
  const number = (row) => Number(row.id.slice(1));
  const first = () => number(box.firstElementChild);
  const last = () => number(box.lastElementChild);
  let busy = false;
  if (!box.querySelector("[id]")) return;

  // Return the rows of the page that begins at a line.
  async function load(line) {
    const url = new URL(location.href);
    url.hash = "";
    for (const name of ["after", "before", "hit"]) url.searchParams.delete(name);
    url.searchParams.set("from", line);
    const answer = await fetch(url, { headers: { Accept: "text/html" } });
    if (!answer.ok) throw new Error(String(answer.status));
    const page = new DOMParser().parseFromString(await answer.text(), "text/html").getElementById("lines");
    box.dataset.total = page.dataset.total;
    return [...page.querySelectorAll("[id]")];
  }

  // Change the rows, and keep what is visible where it is.
  function change(edit) {
    const seen = [...box.children].find((row) => row.offsetTop + row.offsetHeight > box.scrollTop);
    const place = seen.offsetTop - box.scrollTop;
    edit();
    if (seen.isConnected) box.scrollTop = seen.offsetTop - place;
    document.getElementById("shown").textContent = `${first().toLocaleString("en")} to ${last().toLocaleString("en")}`;
    mark();
  }

  function append(rows) {
    change(() => {
      const fresh = rows.filter((row) => number(row) >= last());
      // The last line may have become longer.
      if (fresh.length && number(fresh[0]) === last()) box.lastElementChild.remove();
      box.append(...fresh);
      while (box.childElementCount > KEPT) box.firstElementChild.remove();
    });
  }

  function prepend(rows) {
    change(() => {
      box.prepend(...rows.filter((row) => number(row) < first()));
      while (box.childElementCount > KEPT) box.lastElementChild.remove();
    });
  }

  async function alone(work) {
    if (busy) return;
    busy = true;
    try {
      await work();
      news.textContent = "";
    } catch {
      news.textContent = "not up to date: the coordinator does not answer";
    }
    busy = false;
  }

  function more() {
    if (box.scrollTop < NEAR && first() > 1) {
      alone(async () => prepend(await load(Math.max(1, first() - PAGE))));
    } else if (box.scrollHeight - box.scrollTop - box.clientHeight < NEAR && last() < Number(box.dataset.total)) {
      alone(async () => append(await load(last())));
    }
  }

  function wanted() {
    const found = /^#L(\d+)(?:-L?(\d+))?$/.exec(location.hash);
    return found && [Number(found[1]), Number(found[2] || found[1])];
  }

  function mark() {
    const range = wanted();
    if (!range) return;
    for (const row of box.children) row.classList.toggle("on", number(row) >= range[0] && number(row) <= range[1]);
  }

  // Go to the lines that the address names.
  async function show() {
    const range = wanted();
    if (!range) return;
    if (!document.getElementById(`L${range[0]}`)) {
      while (busy) await new Promise((done) => setTimeout(done, 50));
      await alone(async () => box.replaceChildren(...await load(Math.max(1, range[0] - 20))));
    }
    mark();
    document.getElementById(`L${range[0]}`)?.scrollIntoView({ block: "center" });
  }

  box.addEventListener("click", (event) => {
    const link = event.target.closest("a");
    if (!link || !box.contains(link)) return;
    event.preventDefault();
    const range = wanted();
    const line = number(link.parentElement);
    const lines = event.shiftKey && range ? [Math.min(range[0], line), Math.max(range[0], line)] : [line];
    const url = new URL(location.href);
    url.searchParams.set("from", Math.max(1, lines[0] - 20)); // without a script, this page has the lines
    url.hash = lines.map((one) => `L${one}`).join("-");
    history.replaceState(null, "", url);
    mark();
  });
  box.addEventListener("scroll", more, { passive: true });
  addEventListener("hashchange", show);

  if (follow) {
    follow.parentElement.hidden = false;
    const stop = () => { follow.checked = false; };
    box.addEventListener("wheel", (event) => { if (event.deltaY < 0) stop(); }, { passive: true });
    box.addEventListener("touchmove", stop, { passive: true });
    box.addEventListener("keydown", (event) => { if (["ArrowUp", "PageUp", "Home"].includes(event.key)) stop(); });
    const tail = async () => {
      if (!follow.checked || document.hidden) return;
      await alone(async () => {
        const rows = await load(last());
        const end = Number(box.dataset.total) - PAGE + 1;
        if (end > last()) box.replaceChildren(...await load(end));
        else append(rows);
        box.scrollTop = box.scrollHeight;
      });
    };
    follow.addEventListener("change", tail);
    setInterval(tail, FOLLOW);
  }
  if (wanted()) show();
  else if ("end" in box.dataset) box.scrollTop = box.scrollHeight;
  more();
})();
