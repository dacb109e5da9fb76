"use strict";

// Puts what the page would say now into it every few seconds, while somebody looks at it. Without script it is as good,
// only not live.

const PAUSE = 5000;
const PATIENCE = 4000;
const live = document.getElementById("live");

function isInUse() {
  return document.hidden || !document.getSelection().isCollapsed;
}

async function update() {
  const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
  if (!answer.ok) throw new Error(answer.statusText);
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const opened of document.querySelectorAll("details[open]")) {
    page.getElementById(opened.id)?.setAttribute("open", "");
  }
  document.querySelector("main").replaceWith(page.querySelector("main"));
  document.getElementById("as-of").replaceWith(page.getElementById("as-of"));
}

async function tick() {
  if (!isInUse()) {
    try {
      await update();
      live.textContent = "Live.";
      live.className = "";
    } catch {
      live.textContent = "The exporter does not answer; this is the last that is known.";
      live.className = "bad";
    }
  }
  setTimeout(tick, PAUSE);
}

live.textContent = "Live.";
setTimeout(tick, PAUSE);
