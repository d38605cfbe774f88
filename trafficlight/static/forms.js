// Sends the forms that change something, with the token for changes that a login has brought. Browsers keep local
// storage for one port; cookies they send to all ports of a host, so that those of the lab only read.
"use strict";
(() => {
  const key = document.currentScript.src;
  const sent = new WeakSet();

  async function send(form) {
    const token = localStorage.getItem(key);
    const answer = await fetch(form.action, {
      method: "POST",
      keepalive: true, // another form may be reloading the page
      headers: { Accept: "application/json", ...(token && { Authorization: `Bearer ${token}` }) },
      body: new URLSearchParams(new FormData(form)),
    });
    if (answer.status === 401) {
      form.submit(); // the browser shows the page that asks for a login
      return;
    }
    if (!answer.ok) {
      document.getElementById("news").textContent = (await answer.json()).error.message;
      sent.delete(form);
      return;
    }
    if (!form.elements.token) {
      if ("follow" in form.dataset) location.assign(answer.url);
      else location.reload();
      return;
    }
    const login = await answer.json();
    localStorage.setItem(key, login.token);
    location.assign(login.next);
  }

  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post") return;
    event.preventDefault();
    if (sent.has(event.target)) return; // a second click
    sent.add(event.target);
    send(event.target).catch(() => {
      document.getElementById("news").textContent = "The coordinator did not answer.";
      sent.delete(event.target);
    });
  });
})();
