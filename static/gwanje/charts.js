/* Draws each .gw-chart from the JSON beside it: {"times": [s], "values": [number|null], "unit": "°C"} */
"use strict";

(() => {
  const HEIGHT = 150;
  // From which step (seconds) on: the text of a tick, and what is added where the year or the day begins.
  const TIMES = [
    [86400, "{MM}-{DD}", "\n{YYYY}", null, null, null, null, null, 1],
    [60, "{HH}:{mm}", "\n{YYYY}-{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
    [1, "{HH}:{mm}:{ss}", "\n{YYYY}-{MM}-{DD}", null, "\n{MM}-{DD}", null, null, null, 1],
  ];

  function colours() {
    const dark = document.documentElement.classList.contains("dark");
    const style = getComputedStyle(document.documentElement);
    return {
      line: style.getPropertyValue(dark ? "--color-primary-400" : "--color-primary-600").trim(),
      text: style.getPropertyValue(dark ? "--color-base-400" : "--color-base-500").trim(),
      grid: style.getPropertyValue(dark ? "--color-base-800" : "--color-base-200").trim(),
    };
  }

  function options(width, data, look) {
    const axis = { stroke: look.text, grid: { stroke: look.grid, width: 1 }, ticks: { stroke: look.grid, width: 1 } };
    return {
      width,
      height: HEIGHT,
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      cursor: { y: false },
      scales: { x: { time: true, range: [data.from, data.to] } },
      axes: [{ ...axis, values: TIMES }, { ...axis, size: 56, space: 24 }],
      series: [
        { label: data.time_label, value: "{YYYY}-{MM}-{DD} {HH}:{mm}:{ss}" },
        { label: data.value_label, stroke: look.line, width: 1.5, points: { size: 3 },
          value: (_chart, value) => (value === null ? "–" : `${Number(value.toPrecision(6))} ${data.unit}`) },
      ],
    };
  }

  function draw(place) {
    const data = JSON.parse(place.querySelector("script[type='application/json']").textContent);
    const box = place.querySelector(".gw-plot");
    const chart = new uPlot(options(box.clientWidth, data, colours()), [data.times, data.values], box);
    new ResizeObserver(() => chart.setSize({ width: box.clientWidth, height: HEIGHT })).observe(box);
  }

  // The page is laid out, and its theme chosen, by scripts that run before this event.
  window.addEventListener("load", () => requestAnimationFrame(() => {
    document.querySelectorAll(".gw-chart").forEach(draw);
  }));
})();
