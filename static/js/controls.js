// Small behaviours, each bound by a data- attribute.

// What an element says, to be taken along: a list as lines, the JSON text of a json_script unwrapped.
function textOf(source) {
  if (source.type === "application/json") return JSON.parse(source.textContent);
  if (source.matches("ul, ol")) return Array.from(source.children, (item) => item.textContent.trim()).join("\n");
  return source.textContent.trim();
}

const toast = (detail) => document.dispatchEvent(new CustomEvent("portal:toast", { detail }));

// data-copy="#id": copies the text of an element.
document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-copy]");
  if (!button) return;
  const said = document.body.dataset;
  if (await copy(textOf(document.querySelector(button.dataset.copy)))) {
    toast({ message: said.textCopied, tone: "success", fades: true });
  } else toast({ message: said.textNotCopied });
});

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copySelected(text); // over plain http there is no clipboard but that of the selection
  }
}

function copySelected(text) {
  const focused = document.activeElement;
  const area = document.createElement("textarea");
  area.className = "visually-hidden";
  area.value = text;
  document.body.append(area);
  area.focus({ preventScroll: true });
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  focused.focus({ preventScroll: true });
  return isCopied;
}

// data-download="#id": saves the text of an element as a file (data-file-name).
document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-download]");
  if (!button) return;
  const text = `${textOf(document.querySelector(button.dataset.download))}\n`;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/plain" }));
  link.download = button.dataset.fileName;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
});

// data-print: the page, on paper.
document.addEventListener("click", (event) => {
  if (event.target.closest("[data-print]")) window.print();
});

// data-menu: a <details> that closes on a click elsewhere, or Escape.
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll("details[data-menu][open]")) {
    if (!menu.contains(event.target)) menu.open = false;
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll("details[data-menu][open]")) {
    menu.open = false;
    menu.querySelector("summary").focus();
  }
});

// data-submit-on-change: a filter that applies itself.
document.addEventListener("change", (event) => {
  if (event.target.closest("[data-submit-on-change]")) event.target.form.requestSubmit();
});

// A form that was sent does not take a second click.
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post" || form.hasAttribute("hx-post")) return;
  if (form.dataset.sent) event.preventDefault();
  form.dataset.sent = "yes";
  setTimeout(() => delete form.dataset.sent, 4000);
});
window.addEventListener("pageshow", () => {
  for (const form of document.querySelectorAll("form[data-sent]")) delete form.dataset.sent;
});

// "/" goes to the search field.
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.closest("input, textarea, select, [contenteditable]")) return;
  const field = document.querySelector("input[type=search]");
  if (field) {
    event.preventDefault();
    field.focus();
  }
});

// A form that comes back with faults: the first faulty field gets the focus, else what is wrong with it as a whole.
function toTheFault(root) {
  const faulty = [...root.querySelectorAll("[aria-invalid=true]")].find((field) => field.checkVisibility());
  const field = faulty ?? root.querySelector("[autofocus]");
  (field ?? root.querySelector("[data-form-errors]"))?.focus();
  faulty?.scrollIntoView({ block: "center" }); // what is wrong with it stands below it
}
toTheFault(document);
document.addEventListener("htmx:afterSettle", (event) => {
  const { verb, elt } = event.detail.requestConfig ?? {};
  if (verb === "post" && elt.matches("form")) toTheFault(event.target);
});

// data-version: a piece that asks for itself and would look the same stays as it is, with the focus in it.
document.addEventListener("htmx:beforeSwap", (event) => {
  const { target, serverResponse } = event.detail;
  if (!("version" in target.dataset)) return;
  const fresh = new DOMParser().parseFromString(serverResponse, "text/html").getElementById(target.id);
  if (fresh?.dataset.version === target.dataset.version) event.detail.shouldSwap = false;
});
