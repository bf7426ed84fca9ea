"use strict";

// Times are in UTC where there are no scripts; here in the reader's own zone, with UTC as their title.
const two = (number) => String(number).padStart(2, "0");
const localize = (root) => {
  for (const time of root.querySelectorAll("time")) {
    const at = new Date(time.dateTime);
    const day = [at.getFullYear(), two(at.getMonth() + 1), two(at.getDate())].join("-");
    time.textContent = `${day} ${[at.getHours(), at.getMinutes(), at.getSeconds()].map(two).join(":")}`;
  }
};
localize(document);
document.getElementById("zone").textContent = `Times are in ${Intl.DateTimeFormat().resolvedOptions().timeZone}, in UTC under the pointer.`;

// Pages that move are fetched anew, but not under the hands of somebody who reads, selects or tabs through them.
const live = document.querySelector("[data-refresh]");
if (live) {
  const pause = document.getElementById("pause"), told = document.getElementById("told");
  let paused = false;
  pause.hidden = false;
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    told.textContent = paused ? "not refreshed" : "";
  });
  const busy = () => paused || document.hidden || live.contains(document.activeElement) || !getSelection().isCollapsed;
  const refresh = async () => {
    if (!busy()) {
      try {
        const answer = await fetch(location.href, { cache: "no-store" });
        if (answer.redirected) { location.reload(); return; }
        if (!answer.ok) throw new Error(answer.statusText);
        const page = new DOMParser().parseFromString(await answer.text(), "text/html");
        const fresh = page.querySelector("[data-refresh]");
        if (!busy()) {
          if (!fresh) { location.reload(); return; }  // it moves no more
          localize(fresh);
          live.replaceChildren(...fresh.childNodes);
          document.title = page.title;
          told.textContent = "";
        }
      } catch {
        told.textContent = "The page does not answer: this is how it was.";
      }
    }
    setTimeout(refresh, 1000 * live.dataset.refresh);
  };
  setTimeout(refresh, 1000 * live.dataset.refresh);
}

// The transcript follows the sound, and the sound goes where a time is followed.
const audio = document.querySelector("audio");
if (audio) {
  const lines = [...document.querySelectorAll("[data-start]")];
  let shown = null;
  audio.addEventListener("timeupdate", () => {
    const now = lines.findLast((line) => line.dataset.start <= audio.currentTime + 0.05) ?? null;
    if (now === shown) return;
    shown?.removeAttribute("aria-current");
    now?.setAttribute("aria-current", "true");
    if (!audio.paused) now?.scrollIntoView({ block: "nearest" });
    shown = now;
  });
  const go = (seconds) => {
    audio.currentTime = seconds;
    return audio.play();
  };
  for (const line of lines) {
    line.querySelector("a").addEventListener("click", (event) => {
      event.preventDefault();
      go(Number(line.dataset.start)).catch(() => {});
    });
  }
  const asked = /^#t=([0-9.]+)$/.exec(location.hash);
  if (asked) audio.currentTime = Number(asked[1]);
  audio.addEventListener("error", () => {
    document.getElementById("told").textContent = "The recording cannot be played: S3 does not give it, or the browser cannot reach S3.";
  });
}
