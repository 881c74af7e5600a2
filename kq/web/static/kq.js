// Enhances pages that work without it: what is live is fetched again when the server has news, and times go on.
"use strict";

const live = document.getElementById("live");
const readOnly = live.textContent.trim();
const last = new Map();
let fetching = false;
let again = false;
let isPressed = false;

function say(text, kind) {
  const words = readOnly ? `${text} · ${readOnly}` : text;
  if (live.textContent !== words) live.textContent = words;
  live.dataset.kind = kind;
}

// What finds an element again after its part of the page was replaced.
function keyOf(element) {
  return ["data-key", "href", "id", "value", "name"].map((name) => element.getAttribute(name) || "").join("|");
}

// Somebody is at work in a part of the page: it is left alone for now.
function isInUse(part) {
  const chosen = part.querySelector("input[type=checkbox]:checked");
  const selection = document.getSelection();
  const marked = selection && !selection.isCollapsed && part.contains(selection.anchorNode);
  return Boolean(isPressed || chosen || marked);
}

function replace(part, fresh) {
  const active = document.activeElement;
  const key = part.contains(active) ? keyOf(active) : null;
  const tables = [...part.querySelectorAll(".table, pre")].map((one) => one.scrollLeft);
  part.replaceChildren(...fresh.childNodes);
  [...part.querySelectorAll(".table, pre")].forEach((one, number) => { one.scrollLeft = tables[number] || 0; });
  if (key !== null) {
    const found = [...part.querySelectorAll(active.tagName)].find((one) => keyOf(one) === key);
    if (found) found.focus({ preventScroll: true });
  }
}

async function refresh() {
  if (fetching || document.hidden) {
    again = true;
    return;
  }
  fetching = true;
  again = false;
  try {
    const answer = await fetch(location.href, { credentials: "same-origin" });
    if (answer.ok) {
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of document.querySelectorAll("[data-live]")) {
        const fresh = page.getElementById(part.id);
        if (fresh && !isInUse(part) && fresh.innerHTML !== last.get(part.id)) {
          last.set(part.id, fresh.innerHTML);
          replace(part, fresh);
        }
      }
      enhance();
      say("Live", "good");
    }
  } catch {
    say("Connection lost, trying again", "bad");
  } finally {
    fetching = false;
  }
  if (again && !document.hidden) refresh();
}

function inWords(seconds) {
  for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= 2 * size) return `${Math.round(seconds / size).toLocaleString("en")} ${unit}`;
  }
  return `${Math.round(seconds)} s`;
}

function tick() {
  for (const one of document.querySelectorAll("time[datetime]")) {
    const seconds = (Date.now() - Date.parse(one.dateTime)) / 1000;
    const words = seconds >= 0 ? `${inWords(seconds)} ago` : `in ${inWords(-seconds)}`;
    if (one.textContent !== words) one.textContent = words;
  }
}

// The box that chooses all is of use with this script only.
function enhance() {
  for (const box of document.querySelectorAll("[data-all]")) box.hidden = false;
  tick();
}

document.addEventListener("change", (event) => {
  if (!event.target.matches("[data-all]")) return;
  for (const box of event.target.closest("form").querySelectorAll("input[name=name]")) box.checked = event.target.checked;
});

if (new URLSearchParams(location.search).has("said") && document.querySelector("#said .notice:not(.running)")) {
  // it was said: loading the page again does not say it twice
  const address = new URL(location.href);
  address.searchParams.delete("said");
  setTimeout(() => history.replaceState(null, "", address), 8000);
}

// A button that is replaced while it is pressed would lose its click.
for (const [name, pressed] of [["pointerdown", true], ["pointerup", false], ["pointercancel", false]]) {
  document.addEventListener(name, () => { isPressed = pressed; });
}

const events = new EventSource("/events");
events.addEventListener("look", refresh);
events.addEventListener("error", () => say("Connection lost, trying again", "bad"));
events.addEventListener("open", () => say("Live", "good"));
document.addEventListener("visibilitychange", () => { if (!document.hidden && again) refresh(); });
window.addEventListener("pagehide", () => events.close());
window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
enhance();
setInterval(tick, 1000);
