// What pages that watch something share: the socket that tells of events, the text that models write, and the
// server's fragments, which are asked for again on news, so that nothing is drawn twice.
const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 10000;
const REFRESH_MS = 250; // events that come together are shown together
const NOTHING_HEARD_MS = 60000; // the server pings more often than this
const ENDINGS = { 4401: "signed-out", 4403: "refused", 4404: "gone" };

// Follows a stream from `after` on, and comes back after a break without missing or repeating an event.
// Tells `receive(event)`, `say("live" | "again" | "refused" | "")`, `rest()` after the last event, and
// `end(reason)` when the session or the right to see it has ended.
export class Socket {
  over = false;
  #path;
  #last;
  #tell;
  #socket = null;
  #retries = 0;
  #quiet;
  #wait;

  constructor(path, after, tell) {
    this.#path = path;
    this.#last = after;
    this.#tell = { say() {}, rest() {}, end() {}, ...tell };
    window.addEventListener("online", () => {
      if (!this.over && this.#socket?.readyState !== WebSocket.OPEN) this.#retries = 0;
    });
    this.#connect();
  }

  get last() {
    return this.#last;
  }

  stop() {
    this.over = true;
    clearTimeout(this.#quiet);
    clearTimeout(this.#wait);
    this.#socket?.close();
  }

  #connect() {
    clearTimeout(this.#quiet);
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    this.#socket = new WebSocket(`${scheme}://${location.host}${this.#path}?after=${this.#last}`);
    this.#socket.addEventListener("open", () => {
      this.#retries = 0;
      this.#tell.say("live");
      this.#listen();
    });
    this.#socket.addEventListener("message", (message) => {
      this.#listen();
      this.#receive(JSON.parse(message.data));
    });
    this.#socket.addEventListener("close", (event) => this.#closed(event));
  }

  // A connection that died without a word is closed by us.
  #listen() {
    clearTimeout(this.#quiet);
    this.#quiet = setTimeout(() => this.#socket.close(), NOTHING_HEARD_MS);
  }

  #receive(event) {
    if (event.seq !== undefined) {
      if (event.seq <= this.#last) return;
      this.#last = event.seq;
    } else if (event.type !== "llm.delta") return; // a ping
    this.#tell.receive(event);
  }

  #closed(event) {
    clearTimeout(this.#quiet);
    if (this.over) return;
    if (event.code === 1000) {
      this.over = true;
      this.#tell.say("");
      this.#tell.rest();
    } else if (event.code in ENDINGS) {
      this.over = true;
      this.#tell.say("");
      this.#tell.end(ENDINGS[event.code]);
    } else if (event.code >= 4400 && event.code < 4500) {
      this.over = true;
      this.#tell.say("refused");
    } else {
      this.#tell.say("again");
      const wait = Math.min(LAST_RETRY_MS, FIRST_RETRY_MS * 2 ** this.#retries++);
      this.#wait = setTimeout(() => this.#connect(), wait * (0.6 + Math.random() * 0.4));
    }
  }
}

// The state of the connection, beside a heading.
export function sayer(root) {
  return (state) => {
    const place = root.querySelector("[data-connection]");
    place.hidden = !state;
    if (!state) return;
    place.querySelector(".dot").className = { live: "dot is-live is-success", again: "dot is-warning" }[state] ?? "dot is-danger";
    place.querySelector("[data-connection-text]").textContent = root.dataset[
      { live: "textLive", again: "textAgain", refused: "textRefused" }[state]
    ];
  };
}

// Streamed text: always as text, never as markup. `find(key, role)` names the element that shows a key's text.
export class Texts {
  #known = new Map(); // key → {call, role, text}
  #waiting = new Set();
  #find;

  constructor(find) {
    this.#find = find;
  }

  // The text that the server rendered already.
  begin(key, call, text) {
    this.#known.set(key, { call, role: "", text });
  }

  add(key, { role = "", data: { call, offset, text } }) {
    const known = this.#known.get(key);
    const before = known?.call === call ? known.text : "";
    this.#known.set(key, { call, role, text: before.slice(0, offset) + text });
    if (!this.#waiting.size) {
      requestAnimationFrame(() => {
        for (const each of this.#waiting) this.#put(each);
        this.#waiting.clear();
      });
    }
    this.#waiting.add(key);
  }

  // Elements were replaced: what was written in them is put back.
  redraw() {
    for (const key of this.#known.keys()) this.#put(key);
  }

  #put(key) {
    const { call, role, text } = this.#known.get(key);
    const place = this.#find(key, role);
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
}

function keepEnd(element, change) {
  const atEnd = element.scrollHeight - element.scrollTop - element.clientHeight < 40;
  change();
  element.normalize();
  if (atEnd) element.scrollTop = element.scrollHeight;
}

// The fragments of a page. `address()` is where they are asked for; `isBehind()` says after an answer whether
// there was more already; `takes(target, fragment)` is true for a piece that the page puts in place itself.
export class Fragments {
  #root;
  #address;
  #isBehind;
  #timer = null;
  #asking = false;
  #again = false;
  #ended = false;
  #focus = null; // what stands in a piece to come for what has the focus now

  constructor(root, { address, isBehind = () => false, takes = () => false, settled = () => {} }) {
    this.#root = root;
    this.#address = address;
    this.#isBehind = isBehind;
    root.addEventListener("htmx:oobBeforeSwap", (event) => {
      const { target, fragment } = event.detail;
      if (takes(target, fragment)) return;
      // A piece that would look the same stays as it is, with what the reader opened, marked or scrolled in it.
      const fresh = fragment.firstElementChild ?? fragment;
      const same = "version" in target.dataset && target.dataset.version === fresh.dataset?.version;
      if (same) event.detail.shouldSwap = false;
      else this.#focus = keep(target, fragment) ?? this.#focus;
    });
    root.addEventListener("htmx:oobAfterSwap", () => {
      this.#focus?.focus({ preventScroll: true });
      this.#focus = null;
      settled();
    });
  }

  refresh() {
    if (this.#ended) return;
    if (this.#asking) this.#again = true;
    else this.#timer ??= setTimeout(() => this.#ask(), REFRESH_MS);
  }

  // Nothing is asked for any more; what is shown stays.
  end(reason) {
    this.#ended = true;
    clearTimeout(this.#timer);
    document.dispatchEvent(new CustomEvent("portal:ended", { detail: { reason } }));
  }

  async #ask() {
    this.#timer = null;
    this.#asking = true;
    this.#again = false;
    try {
      await htmx.ajax("GET", this.#address(), { source: this.#root, target: this.#root, swap: "none" });
    } finally {
      this.#asking = false;
      if (this.#again || this.#isBehind()) this.refresh();
    }
  }
}

// A piece that is replaced takes along what the reader opened, chose and typed in it. Returns what stands in the
// fresh piece for what has the focus in the old one.
function keep(old, fresh) {
  const twin = (element) => twinOf(element, old, fresh);
  for (const open of old.querySelectorAll("details[open]")) twin(open)?.setAttribute("open", "");
  for (const field of old.querySelectorAll("input[id], textarea[id], select[id]")) {
    const other = twin(field);
    if (!other) continue;
    const first = field.matches("select") ? field.querySelector("[selected]")?.value : field.defaultValue;
    if (field.type === "radio") other.checked = field.checked;
    else if (field.type !== "hidden" && (field.value !== first || wasRefused(field.form))) {
      other.value = field.value;
      const beside = field.dataset.goesWith;
      if (beside) other.form.elements[beside].value = field.form.elements[beside].value;
    }
  }
  const focused = document.activeElement;
  return old !== focused && old.contains(focused) ? twin(focused) : null;
}

// What the server sent back holds what was typed, though it looks like what the server wrote.
const wasRefused = (form) => form?.querySelector("[data-form-errors], [aria-invalid=true]");

const NAMES = [(e) => e.getAttribute("aria-label"), (e) => e.getAttribute("href"), (e) => e.textContent.trim()];

// The same thing in a fresh piece: by its id, else by what it is and what it is called.
function twinOf(element, old, fresh) {
  if (element.id) return fresh.querySelector(`#${CSS.escape(element.id)}`);
  for (const name of NAMES) {
    const called = (other) => name(other.matches("details") ? other.querySelector("summary") : other);
    const alike = (root) => [...root.querySelectorAll(element.localName)].filter((o) => called(o) === called(element));
    const twin = called(element) && alike(fresh)[alike(old).indexOf(element)];
    if (twin) return twin;
  }
  return null;
}
