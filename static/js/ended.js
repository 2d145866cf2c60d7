// A page whose session or right has ended says so, and stays as it is: nothing typed is lost, and what
// it shows may be older than the truth. Others tell with `portal:ended` and a reason: signed-out, refused, gone.
const template = document.getElementById("ended-template");
let said = null;

function say(reason) {
  if (said) return;
  const notice = template.content.querySelector(`[data-reason="${reason}"]`).cloneNode(true);
  const link = notice.querySelector("[data-sign-in]");
  if (link) {
    const here = location.pathname + location.search + location.hash;
    link.href = `${link.dataset.signIn}?next=${encodeURIComponent(here)}`;
  }
  said = reason;
  document.getElementById("main").prepend(notice);
  notice.focus({ preventScroll: true });
  notice.scrollIntoView({ block: "nearest" });
}

document.addEventListener("portal:ended", (event) => say(event.detail.reason));

// A fragment cannot show the sign-in page, so the server asks htmx to go there: it stays here instead.
document.addEventListener("htmx:beforeOnLoad", (event) => {
  const target = event.detail.xhr.getResponseHeader("HX-Redirect");
  if (!target || !template || !target.startsWith(template.dataset.signIn)) return;
  event.preventDefault();
  say("signed-out");
});
document.addEventListener("htmx:beforeRequest", (event) => {
  if (said === "signed-out") event.preventDefault();
});
