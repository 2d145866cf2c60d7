// Times in the reader's own zone, and durations that count on while something is open.
// The server is told the zone, so that what is typed into a form is read in it, and what it renders is right at once.
const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
const secure = location.protocol === "https:" ? "; Secure" : "";
if (zone) document.cookie = `timezone=${zone}; Path=/; Max-Age=31536000; SameSite=Lax${secure}`;

const language = document.documentElement.lang;
const full = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "medium" });
const short = new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short" });
const ofDay = new Intl.DateTimeFormat(language, { timeStyle: "medium", hour12: false });

function localize(root) {
  for (const time of root.querySelectorAll("time[data-moment], time[data-due]")) {
    time.title = full.format(new Date(time.dateTime));
  }
  for (const time of root.querySelectorAll("time[data-full]")) {
    time.textContent = (time.dataset.full === "second" ? full : short).format(new Date(time.dateTime));
    time.title = full.format(new Date(time.dateTime));
  }
  for (const time of root.querySelectorAll("time[data-clock]")) time.textContent = ofDay.format(new Date(time.dateTime));
}

function spell(seconds) {
  const two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(seconds / 3600), Math.floor((seconds % 3600) / 60), Math.floor(seconds % 60)];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
}

// The server's clock may differ from the reader's: count from what the server showed.
const seen = new WeakMap();

function tick() {
  for (const element of document.querySelectorAll("[data-since]")) {
    if (!seen.has(element)) {
      seen.set(element, Date.now() - Number(element.dataset.seconds) * 1000);
    }
    element.textContent = spell(Math.max(0, (Date.now() - seen.get(element)) / 1000));
  }
}

// "just now" does not stay true: what the server wrote grows older with the page.
const relative = new Intl.RelativeTimeFormat(language, { numeric: "always", style: "long" });
const UNITS = [["year", 31536000], ["month", 2592000], ["week", 604800], ["day", 86400], ["hour", 3600], ["minute", 60]];

function age() {
  for (const time of document.querySelectorAll("time[data-moment]")) {
    const seconds = (Date.now() - new Date(time.dateTime)) / 1000;
    const [unit, size] = UNITS.find(([, size]) => seconds >= size) ?? [];
    if (unit) time.textContent = relative.format(-Math.floor(seconds / size), unit);
  }
}

localize(document);
const ticking = setInterval(tick, 1000);
document.addEventListener("portal:ended", () => clearInterval(ticking));
setInterval(age, 30000);
document.addEventListener("htmx:load", (event) => localize(event.detail.elt));
