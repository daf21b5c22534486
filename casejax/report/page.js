"use strict";
// Draws the charts at the width that there is, in light or dark, when they come into view; sorts tables.
const charts = JSON.parse(document.getElementById("charts").textContent);
const dark = matchMedia("(prefers-color-scheme: dark)");

function theme(side) {
  const [ink, line] = dark.matches ? ["#c9cdd1", "#34383c"] : ["#3b3e42", "#e2e4e6"];
  const axis = { labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line, titleFontWeight: 400 };
  const fixed = side ? { minExtent: side, maxExtent: side, labelLimit: side - 12 } : { labelLimit: 130 };
  return {
    background: null,
    view: { stroke: null },
    axis: axis,
    axisY: fixed,
    title: { color: ink, anchor: "start", fontSize: 13, frame: "group", fontWeight: 600 },
    legend: { orient: "top", labelColor: ink, titleColor: ink, columns: innerWidth < 600 ? 2 : 5, labelLimit: innerWidth < 600 ? 92 : 170 },
  };
}

async function draw(place) {
  const spec = structuredClone(charts[place.dataset.chart]);
  const room = place.clientWidth;
  if (!room) return; // within details that are closed
  const side = spec.vconcat ? (room < 600 ? 88 : 140) : 0;
  spec.config = theme(side);
  spec.$schema = "https://vega.github.io/schema/vega-lite/v6.json";
  if (spec.vconcat) {
    for (const view of spec.vconcat) view.width = room - side - 24;
  } else {
    spec.width = room;
    spec.autosize = { type: "fit-x", contains: "padding" };
  }
  try {
    const done = await vegaEmbed(place, spec, {
      renderer: "svg",
      actions: false,
      tooltip: { theme: dark.matches ? "dark" : "light" },
    });
    place.dataset.room = room;
    place.chart?.finalize();
    place.chart = done;
  } catch (error) {
    place.classList.add("error");
    place.textContent = `This chart cannot be drawn: ${error.message}`;
    console.error(error);
  }
}

const places = [...document.querySelectorAll(".chart")];
const watcher = new IntersectionObserver(
  (entries) => entries.forEach((each) => each.isIntersecting && !each.target.chart && draw(each.target)),
  { rootMargin: "800px" },
);
places.forEach((place) => watcher.observe(place));
const again = () => places.filter((place) => place.chart).forEach(draw);
dark.addEventListener("change", again);
let wait;
addEventListener("resize", () => {
  clearTimeout(wait);
  wait = setTimeout(() => places.filter((p) => p.chart && +p.dataset.room !== p.clientWidth).forEach(draw), 200);
});
addEventListener("beforeprint", () => {
  document.querySelectorAll("details").forEach((each) => (each.open = true));
  places.filter((place) => !place.chart).forEach(draw);
});

for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const up = head.ariaSort === "descending";
    const column = [...head.parentNode.children].indexOf(head);
    const key = (row) => row.children[column].dataset.value ?? row.children[column].textContent;
    const rows = [...body.rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      const order = x !== "" && y !== "" && !isNaN(x) && !isNaN(y) ? x - y : x.localeCompare(y);
      return up ? order : -order;
    });
    for (const other of head.parentNode.children) other.removeAttribute("aria-sort");
    head.ariaSort = up ? "ascending" : "descending";
    body.append(...rows);
  });
}
