// Toasts: those the server rendered, and what htmx could not do. Others ask with a `portal:toast` event.
const FADE_MS = 6000;
const region = document.getElementById("toasts");
const template = document.getElementById("toast-template");
const text = document.body.dataset;

function show(message, { tone = "danger", fades = false } = {}) {
  const toast = template.content.firstElementChild.cloneNode(true);
  toast.classList.add(`is-${tone}`);
  toast.querySelector("p").textContent = message;
  if (fades) toast.dataset.fades = "";
  region.append(toast);
}

function fade(toast) {
  let timer;
  const start = () => (timer = setTimeout(() => toast.remove(), FADE_MS));
  toast.addEventListener("pointerenter", () => clearTimeout(timer));
  toast.addEventListener("pointerleave", start);
  start();
}

region.querySelectorAll("[data-fades]").forEach(fade);
new MutationObserver((changes) => {
  for (const change of changes) {
    for (const node of change.addedNodes) {
      if (node instanceof Element && "fades" in node.dataset) fade(node);
    }
  }
}).observe(region, { childList: true });

document.addEventListener("click", (event) => {
  event.target.closest("[data-dismiss]")?.closest("[data-toast]")?.remove();
});
document.addEventListener("portal:toast", (event) => show(event.detail.message, event.detail));
document.addEventListener("htmx:responseError", (event) => {
  const status = event.detail.xhr.status;
  const known = { 403: text.textRefused, 404: text.textGone, 429: text.textTooMany };
  show(known[status] ?? text.textFailed);
});
document.addEventListener("htmx:sendError", (event) => {
  // The live refresh of a page repeats itself, and says by its own means when it is cut off.
  if (!event.target.closest?.("[data-live]")) show(text.textOffline);
});
