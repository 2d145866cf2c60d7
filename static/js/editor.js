// The crew editor is swapped whole after every change. Forms that stand open beside the one that was
// sent keep what was typed in them: they are taken out before the swap and put back after it.
let kept = [];

const isEditor = (event) => event.detail.target?.id === "editor" && event.detail.shouldSwap !== false;

document.addEventListener("htmx:beforeSwap", (event) => {
  if (!isEditor(event)) return;
  const trigger = event.detail.requestConfig.elt;
  kept = [...event.detail.target.querySelectorAll("[data-editing]")].filter((form) => !form.contains(trigger));
  for (const form of kept) form.replaceWith(document.createElement("div"));
});

document.addEventListener("htmx:afterSwap", () => {
  for (const form of kept) document.getElementById(form.id)?.replaceWith(form);
  kept = [];
});

document.addEventListener("htmx:afterSettle", (event) => {
  if (event.detail.target?.id !== "editor" && event.detail.elt?.id !== "editor") return;
  const editor = document.getElementById("editor");
  const trigger = event.detail.requestConfig?.elt;
  const opened = trigger?.closest?.("a") && editor.querySelector("[data-editing] :is(input, textarea, select):not([type=hidden])");
  opened?.focus();
});
