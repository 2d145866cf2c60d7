// A run as it happens: its events, and the text that its models write.
import { Fragments, Socket, Texts, sayer } from "./live.js";

const root = document.querySelector("[data-run]");
const say = sayer(root);
let socket = null;

const shown = () => Number(document.getElementById("event-cursor").dataset.seq);
let asked = 0; // what was shown when the fragments were last asked for

const texts = new Texts((task, role) => {
  if (!task) {
    const other = root.querySelector("[data-other-stream]");
    other.hidden = socket?.over ?? true;
    other.querySelector("[data-other-role]").textContent = role;
  }
  return root.querySelector(`[data-stream="${CSS.escape(task)}"]`);
});

const fragments = new Fragments(root, {
  address: () => {
    asked = shown();
    return `${root.dataset.live}?after=${asked}&group=${document.getElementById("event-log").dataset.group}`;
  },
  isBehind: () => shown() > asked && shown() < socket.last,
  takes: (target, fragment) => {
    if (target.id !== "event-list") return false;
    const seen = Number(target.lastElementChild?.dataset.seq ?? 0);
    for (const row of fragment.querySelectorAll("[data-seq]")) if (Number(row.dataset.seq) <= seen) row.remove();
    return true;
  },
  settled: () => {
    texts.redraw();
    for (const list of root.querySelectorAll("[data-keep-end]")) {
      if (list.dataset.keepEnd !== "left") list.scrollTop = list.scrollHeight;
    }
  },
});

root.addEventListener(
  "scroll",
  ({ target }) => {
    if (!("keepEnd" in (target.dataset ?? {}))) return;
    target.dataset.keepEnd = target.scrollHeight - target.scrollTop - target.clientHeight < 40 ? "" : "left";
  },
  true,
);

for (const place of root.querySelectorAll("[data-stream][data-call]")) {
  if (place.dataset.call) texts.begin(place.dataset.stream, place.dataset.call, place.textContent);
}
for (const element of root.querySelectorAll("[data-keep-end], .stream")) element.scrollTop = element.scrollHeight;
if ("active" in root.dataset) {
  socket = new Socket(root.dataset.socket, Number(root.dataset.after), {
    receive: (event) => (event.type === "llm.delta" ? texts.add(event.task ?? "", event) : fragments.refresh()),
    say,
    rest: () => fragments.refresh(),
    end: (reason) => fragments.end(reason),
  });
}
