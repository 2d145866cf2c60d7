// A project as it happens: its events, and what the roles at work write just now (each from its own run).
import { Fragments, Socket, Texts, sayer } from "./live.js";

const root = document.querySelector("[data-project]");
const runs = new Map(); // address of a run's socket → Socket

const texts = new Texts((path) => root.querySelector(`[data-follow="${CSS.escape(path)}"] [data-stream]`));
const fragments = new Fragments(root, {
  address: () => root.dataset.live,
  settled: () => {
    follow();
    texts.redraw();
  },
});

// Watch the runs that are shown at work, and no others.
function follow() {
  const shown = new Set();
  for (const place of root.querySelectorAll("[data-follow]")) {
    const path = place.dataset.follow;
    shown.add(path);
    if (runs.has(path)) continue;
    const stream = place.querySelector("[data-stream]");
    if (stream.dataset.call) texts.begin(path, stream.dataset.call, stream.textContent);
    stream.scrollTop = stream.scrollHeight;
    runs.set(
      path,
      new Socket(path, Number(place.dataset.after), {
        receive: (event) => (event.type === "llm.delta" ? texts.add(path, event) : isMove(event) && fragments.refresh()),
        rest: () => fragments.refresh(),
      }),
    );
  }
  for (const [path, socket] of runs) {
    if (shown.has(path)) continue;
    socket.stop();
    runs.delete(path);
  }
}

const isMove = (event) => event.type.startsWith("execution.");

follow();
if ("active" in root.dataset) {
  new Socket(root.dataset.socket, Number(root.dataset.after), {
    receive: () => fragments.refresh(),
    say: sayer(root),
    rest: () => fragments.refresh(),
    end: (reason) => fragments.end(reason),
  });
}
