/* Fetches a part of the page again every second while a job in it is under way. */
"use strict";

for (const part of document.querySelectorAll("[data-watch]")) {
  const look = async () => {
    if (!part.querySelector("[data-under-way]")) return;
    try {
      if (!document.hidden) {
        const answer = await fetch(part.dataset.watch, { headers: { Accept: "text/html" } });
        if (answer.redirected || answer.status === 403) return; // signed out: the next click shows it
        if (answer.ok) part.innerHTML = await answer.text();
      }
    } catch {
      // The server is unavailable for a moment: the next request follows.
    }
    setTimeout(look, 1000);
  };
  setTimeout(look, 1000);
}
