/* Adds an empty row to a formset: a <template> holds the form with __prefix__ for its number. */
"use strict";

document.addEventListener("click", (event) => {
  const button = event.target.closest("[data-add-row]");
  if (!button) return;
  const prefix = button.dataset.addRow;
  const total = document.querySelector(`#id_${prefix}-TOTAL_FORMS`);
  const most = document.querySelector(`#id_${prefix}-MAX_NUM_FORMS`);
  if (Number(total.value) >= Number(most.value)) return;
  const template = document.querySelector(`#${prefix}-empty`);
  const row = template.innerHTML.replaceAll("__prefix__", total.value);
  document.querySelector(`#${prefix}-rows`).insertAdjacentHTML("beforeend", row);
  total.value = Number(total.value) + 1;
});
