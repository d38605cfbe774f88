// The cursor in the picture of an attempt, and what copies texts. Without it, a button shows the chosen moment.
"use strict";
(() => {
  const REST = 150; // ms without a movement after which the page asks what was said
  let timer = 0;
  let asked = 0;

  function show(form) {
    const slider = form.elements.at;
    const x = `${0.4 + 99.2 * Number(slider.value) / Number(slider.max)}%`;
    const cursor = form.parentElement.querySelector(".cursor");
    if (cursor) for (const name of ["x1", "x2"]) cursor.setAttribute(name, x);
    const moment = new Date(Date.parse(form.dataset.began) + 1_000 * Number(slider.value));
    const clock = moment.toISOString().slice(11, 23);
    form.querySelector("output").textContent = `${Number(slider.value).toFixed(2)} s · ${clock} UTC`;
    clearTimeout(timer);
    timer = setTimeout(() => ask(form).catch(() => {}), REST);
  }

  // Of what was said, scroll to the moment itself.
  function centre() {
    for (const row of document.querySelectorAll(".evidence .now")) {
      const box = row.closest(".scroll");
      box.scrollTop = row.offsetTop - box.clientHeight / 2;
    }
  }

  async function ask(form) {
    const mine = ++asked;
    const url = new URL(location.href);
    for (const [name, value] of new FormData(form)) url.searchParams.set(name, value);
    const answer = await fetch(url, { headers: { Accept: "text/html" } });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    const fresh = page.getElementById(form.dataset.shows);
    const old = document.getElementById(form.dataset.shows);
    if (!answer.ok || mine !== asked || !fresh || !old) return;
    old.replaceWith(document.importNode(fresh, true));
    centre();
    history.replaceState(null, "", url); // a link to the moment
  }

  async function copy(button) {
    const source = document.getElementById(button.dataset.copy);
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(source.textContent);
    } else { // not on https, nor on this machine
      getSelection().selectAllChildren(source);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
  }

  centre();

  // Moved before this script ran.
  for (const form of document.querySelectorAll("form.moment")) {
    const untouched = form.elements.at.cloneNode();
    untouched.value = untouched.defaultValue; // rounded, as a browser does
    if (form.elements.at.value !== untouched.value) show(form);
  }

  document.addEventListener("input", (event) => {
    const form = event.target.closest("form.moment");
    if (form) show(form);
  });

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-copy]");
    if (button) copy(button).catch(() => { button.textContent = "Select the text instead"; });
    const picture = event.target.closest("svg.picture");
    const form = picture && picture.parentElement.querySelector("form.moment");
    if (!form || event.target.closest("a")) return;
    const box = picture.getBoundingClientRect();
    const part = ((event.clientX - box.left) / box.width - 0.004) / 0.992;
    form.elements.at.value = Number(form.elements.at.max) * Math.min(1, Math.max(0, part));
    show(form);
  });
})();
