// Draws the charts in the colours of the style sheet, again when the page turns light or dark, and makes room on narrow
// screens.
"use strict";
(function () {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();

  // "@ours" in a specification is the style sheet's --ours. Only whole strings are looked up, never text of models.
  function painted(value, key) {
    if (Array.isArray(value)) return value.map((one) => painted(one, key));
    if (value && typeof value === "object") {
      const copy = {};
      for (const name of Object.keys(value)) copy[name] = name === "values" ? value[name] : painted(value[name], name);
      return copy;
    }
    return typeof value === "string" && /^@[a-z0-9-]+$/.test(value) ? colour(value.slice(1)) : value;
  }

  function config(width, names) {
    const isNarrow = width < 520, limit = isNarrow ? 130 : 220;
    const room = width - Math.min(limit, 7 * names.left) - 20;
    const ink = colour("ink"), muted = colour("muted"), line = colour("line");
    const font = getComputedStyle(document.body).fontFamily;
    return {
      background: "transparent", font: font, view: { stroke: null },
      axis: {
        labelColor: muted, titleColor: muted, gridColor: line, domainColor: line, tickColor: line,
        labelFontSize: 12, titleFontSize: 12,
        titleFontWeight: "normal", titlePadding: 10, labelPadding: 6, ticks: false, domain: false, labelLimit: limit,
      },
      axisY: { titleAngle: 0, titleAlign: "left", titleAnchor: "end", titleY: -12, titleX: 0 },
      axisYQuantitative: { grid: true },
      axisYNominal: { grid: false, labelColor: ink, labelFontSize: isNarrow ? 11 : 13 },
      legend: {
        labelColor: ink, labelFontSize: 12, symbolSize: 90, 
        orient: "bottom", direction: "horizontal", columnPadding: 16, rowPadding: 6, offset: 14,
        columns: Math.max(1, Math.min(8, Math.floor(room / (7 * names.legend + 42)))),
        symbolOpacity: 1, labelLimit: 160, titleColor: muted,
      },
    };
  }

  // Names beside the points of the plane, put where they cover nothing; a name without a place is in the table.
  function named(vega) {
    const marks = vega.marks || [];
    if (!marks.some((mark) => mark.name === "points_marks")) return vega;
    const others = marks.filter((mark) => mark.name !== "points_marks" && mark.name).map((mark) => mark.name);
    const font = getComputedStyle(document.body).fontFamily;
    marks.push({
      type: "text", name: "names", from: { data: "points_marks" }, interactive: false,
      encode: { enter: {
        text: { field: "datum.name" }, font: { value: font }, fontSize: { value: 12 }, fill: { value: colour("ink") },
        fontWeight: { signal: "datum.datum.is_strong ? 'bold' : 'normal'" },
      } },
      transform: [{
        type: "label", size: [{ signal: "max(width, 10)" }, { signal: "max(height, 10)" }],
        anchor: ["right", "left", "top", "bottom", "top-right", "bottom-right", "top-left", "bottom-left"],
        offset: [7, 7, 7, 7, 3, 3, 3, 3], padding: 0, avoidBaseMark: true, avoidMarks: others,
      }],
    });
    return vega;
  }

  let drawn = [];
  async function draw() {
    drawn.forEach((one) => one.finalize());
    drawn = [];
    for (const place of document.querySelectorAll("[data-chart]")) {
      const spec = painted(specs[place.dataset.chart]);
      try {
        drawn.push(await vegaEmbed(place, spec, {
          actions: false, renderer: "svg", ast: true, patch: named, mode: "vega-lite",
          config: config(place.clientWidth, spec.usermeta),
          tooltip: { theme: "custom", disableDefaultStyle: true },
          loader: { load: () => Promise.reject(new Error("this page loads nothing")) },
        }));
        place.dataset.drawn = "yes";
      } catch (error) {
        place.textContent = "This chart could not be drawn; its numbers are in the table.";
        console.error(place.dataset.chart, error);
      }
    }
    document.documentElement.dataset.drawn = String(drawn.length);
  }

  let wait = 0, width = window.innerWidth;
  window.addEventListener("resize", () => {
    clearTimeout(wait);
    wait = setTimeout(() => { if (window.innerWidth !== width) { width = window.innerWidth; draw(); } }, 200);
  });
  dark.addEventListener("change", draw);
  draw();
})();
