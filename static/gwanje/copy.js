/* Buttons that copy the text of another element: <button data-copy="#id" data-done="Copied">Copy</button> */
"use strict";

(() => {
  function selectText(element) {
    const range = document.createRange();
    range.selectNodeContents(element);
    const selection = window.getSelection();
    selection.removeAllRanges();
    selection.addRange(range);
  }

  async function copy(element) {
    try {
      await navigator.clipboard.writeText(element.textContent);
      return true;
    } catch {
      // No permission, or a page that did not come over TLS: the old way, which leaves the text selected.
      selectText(element);
      return document.execCommand("copy");
    }
  }

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const label = button.textContent;
    if (await copy(document.querySelector(button.dataset.copy))) {
      button.textContent = button.dataset.done;
      setTimeout(() => { button.textContent = label; }, 2000);
    }
  });

  // A page that is shown once: loading it again goes to the page behind it, and does not do the thing again.
  const once = document.querySelector("[data-shown-once]");
  if (once) history.replaceState(null, "", once.dataset.shownOnce);
})();
