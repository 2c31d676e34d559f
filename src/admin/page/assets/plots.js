// The plots of the last minutes, by uPlot.

/* global uPlot */

const HEIGHT = 160;
const made = [];

function colours() {
  const style = getComputedStyle(document.body);
  const of = (name) => style.getPropertyValue(name).trim();
  return { axis: of("--text-weak"), grid: of("--line"), first: of("--plot-first"), second: of("--plot-second") };
}

function options(names, width) {
  const { axis, grid, first, second } = colours();
  const line = (label, stroke, dash) => ({ label, stroke, dash, width: 2, points: { show: false } });
  const times = { values: (_, splits) => splits.map((at) => new Date(at * 1000).toTimeString().slice(0, 5)) };
  const axes = [times, { size: 48 }].map((own) => ({
    stroke: axis, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 }, ...own,
  }));
  return {
    width, height: HEIGHT, axes,
    cursor: { show: false },
    legend: { live: false, markers: { dash: (_, index) => (index === 2 ? "dashed" : "solid") } },
    scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
    series: [{}, line(names[0], first), line(names[1], second, [6, 4])],
  };
}

function plot(id, names, data) {
  const place = document.getElementById(id);
  let of = made.find((known) => known.id === id);
  if (!of) {
    of = { id, names, plot: new uPlot(options(names, place.clientWidth || 300), data, place) };
    made.push(of);
  } else of.plot.setData(data);
  place.querySelector("canvas").setAttribute("aria-hidden", "true");
  place.setAttribute("role", "img");
  const last = names.map((name, index) => `${name} ${latest(data[index + 1])}`);
  place.setAttribute("aria-label", `latest: ${last.join(", ")}`);
}

const latest = (values) => {
  const value = values.findLast((value) => value !== null);
  return value === undefined ? "none" : Number(value.toPrecision(3));
};

export function intervals(rows, length) {
  const times = rows.map((row) => row.at);
  const each = (of) => rows.map(of);
  plot("plot-tokens", ["output", "prompt"], [
    times, each((row) => row.output_tokens / length), each((row) => row.prompt_tokens / length),
  ]);
  plot("plot-first-byte", ["median", "95th percentile"], [
    times, each((row) => row.first_byte_p50), each((row) => row.first_byte_p95),
  ]);
  plot("plot-requests", ["all", "failed"], [
    times, each((row) => row.requests / length), each((row) => row.failed / length),
  ]);
}

// Sizes and colours are the plots' own, so they are made again when these change.
function remake() {
  for (const of of made) {
    const place = document.getElementById(of.id);
    const { data } = of.plot;
    of.plot.destroy();
    of.plot = new uPlot(options(of.names, place.clientWidth || 300), data, place);
    place.querySelector("canvas").setAttribute("aria-hidden", "true");
  }
}

let timer;
window.addEventListener("resize", () => {
  clearTimeout(timer);
  timer = setTimeout(remake, 200);
});
window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", remake);
