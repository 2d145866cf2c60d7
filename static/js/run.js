// A run as it happens. The socket tells of events and carries the text that models write; what the
// page shows of events is asked of the server again (`data-live`), so nothing is drawn twice.
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 10000;
const REFRESH_MS = 250; // events that come together are shown together
const NOTHING_HEARD_MS = 60000; // the server pings more often than this

const root = document.querySelector("[data-run]");
const texts = new Map(); // task → {call, text}
let socket = null;
let last = Number(root.dataset.after);
let retries = 0;
let over = !("active" in root.dataset);
let quiet;

// --- The socket ----------------------------------------------------------------------------------

function connect() {
  clearTimeout(quiet);
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}${root.dataset.socket}?after=${last}`);
  socket.addEventListener("open", () => {
    retries = 0;
    say("live");
    listen();
  });
  socket.addEventListener("message", (message) => {
    listen();
    receive(JSON.parse(message.data));
  });
  socket.addEventListener("close", closed);
}

// A connection that died without a word is closed by us.
function listen() {
  clearTimeout(quiet);
  quiet = setTimeout(() => socket.close(), NOTHING_HEARD_MS);
}

function receive(event) {
  if (event.type === "llm.delta") stream(event);
  else if (event.seq > last) {
    last = event.seq;
    refresh();
  }
}

function closed(event) {
  clearTimeout(quiet);
  if (event.code === 1000) {
    over = true;
    say("");
    refresh();
  } else if (event.code === 4401) {
    location.reload(); // the session ended: the server leads to the sign-in page and back
  } else if (event.code >= 4400 && event.code < 4500) {
    over = true;
    say("refused");
  } else {
    say("again");
    const wait = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** retries++);
    setTimeout(connect, wait * (0.6 + Math.random() * 0.4));
  }
}

function say(state) {
  const place = root.querySelector("[data-connection]");
  place.hidden = !state;
  if (!state) return;
  place.querySelector(".dot").className = { live: "dot is-live is-success", again: "dot is-warning" }[state] ?? "dot is-danger";
  place.querySelector("[data-connection-text]").textContent = root.dataset[
    { live: "textLive", again: "textAgain", refused: "textRefused" }[state]
  ];
}

// --- Streamed text: always as text, never as markup --------------------------------------------------

function stream({ task = "", role = "", data: { call, offset, text } }) {
  const known = texts.get(task);
  const before = known?.call === call ? known.text : "";
  texts.set(task, { call, role, text: before.slice(0, offset) + text });
  draw(task);
}

const waiting = new Set();

function draw(task) {
  if (!waiting.size) requestAnimationFrame(() => {
    for (const each of waiting) put(each);
    waiting.clear();
  });
  waiting.add(task);
}

function put(task) {
  let place = root.querySelector(`[data-stream="${CSS.escape(task)}"]`);
  const { call, role, text } = texts.get(task);
  if (!task) {
    const other = root.querySelector("[data-other-stream]");
    other.hidden = over;
    other.querySelector("[data-other-role]").textContent = role;
  }
  if (!place) return;
  const shown = place.textContent;
  if (place.dataset.call === call && text.startsWith(shown)) {
    if (text.length === shown.length) return;
    keepEnd(place, () => place.append(text.slice(shown.length)));
  } else {
    place.dataset.call = call;
    keepEnd(place, () => (place.textContent = text));
  }
}

function keepEnd(element, change) {
  const atEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
  change();
  element.normalize();
  if (atEnd) element.scrollTop = element.scrollHeight;
}

// --- The server's fragments ----------------------------------------------------------------------------

let timer = null;
let asking = false;
let again = false;

function refresh() {
  if (asking) again = true;
  else timer ??= setTimeout(ask, REFRESH_MS);
}

async function ask() {
  timer = null;
  asking = true;
  again = false;
  const shown = Number(document.getElementById("event-cursor").dataset.seq);
  const group = document.getElementById("event-log").dataset.group;
  try {
    await htmx.ajax("GET", `${root.dataset.live}?after=${shown}&group=${group}`, { source: root, target: root, swap: "none" });
  } finally {
    asking = false;
    const now = Number(document.getElementById("event-cursor").dataset.seq);
    if (again || (now > shown && now < last)) refresh();
  }
}

// A piece that would look the same stays as it is, with what the reader opened, marked or scrolled in it.
root.addEventListener("htmx:oobBeforeSwap", (event) => {
  const { target, fragment } = event.detail;
  const fresh = fragment.firstElementChild ?? fragment;
  if (target.id === "event-list") {
    const seen = Number(target.lastElementChild?.dataset.seq ?? 0);
    for (const row of fragment.querySelectorAll("[data-seq]")) if (Number(row.dataset.seq) <= seen) row.remove();
    return;
  }
  const same = "version" in target.dataset && target.dataset.version === fresh.dataset?.version;
  if (same) event.detail.shouldSwap = false;
  else keep(target, fragment);
});

// A piece that is replaced takes along what the reader opened, chose and typed in it.
function keep(old, fresh) {
  const twin = (element) => fresh.querySelector(`#${CSS.escape(element.id)}`);
  for (const open of old.querySelectorAll("details[id][open]")) twin(open)?.setAttribute("open", "");
  for (const field of old.querySelectorAll("input[id], textarea[id], select[id]")) {
    const other = twin(field);
    if (!other) continue;
    const first = field.matches("select") ? field.querySelector("[selected]")?.value : field.defaultValue;
    if (field.type === "radio") other.checked = field.checked;
    else if (field.value !== first) other.value = field.value;
  }
}

root.addEventListener("htmx:oobAfterSwap", () => {
  for (const task of texts.keys()) put(task);
  for (const list of root.querySelectorAll("[data-keep-end]")) {
    if (list.dataset.keepEnd !== "left") list.scrollTop = list.scrollHeight;
  }
});

root.addEventListener(
  "scroll",
  ({ target }) => {
    if (!("keepEnd" in (target.dataset ?? {}))) return;
    target.dataset.keepEnd = target.scrollHeight - target.scrollTop - target.clientHeight < 40 ? "" : "left";
  },
  true,
);

// --- Start ---------------------------------------------------------------------------------------------

for (const place of root.querySelectorAll("[data-stream][data-call]")) {
  if (place.dataset.call) texts.set(place.dataset.stream, { call: place.dataset.call, role: "", text: place.textContent });
}
for (const element of root.querySelectorAll("[data-keep-end], .stream")) element.scrollTop = element.scrollHeight;
if (!over) connect();
window.addEventListener("online", () => {
  if (!over && socket?.readyState !== WebSocket.OPEN) retries = 0;
});
