"use strict";

const HEIGHT = 230;
const DASHES = [[], [6, 3], [2, 3], [8, 3, 2, 3]];

/** What all charts have in common; `y` names the unit behind the numbers of the vertical axis. */
function frame(host, y) {
  const ink = colour("muted");
  const axis = { stroke: ink, grid: { stroke: colour("grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
  return {
    width: host.clientWidth,
    height: HEIGHT,
    padding: [8, 24, 0, 0],
    cursor: { sync: { key: view.axis }, points: { size: 6 }, y: false, hover: { skip: [null] } },
    scales: { x: { time: false } },
    axes: [
      { ...axis, size: 28, values: (_, ticks) => ticks.map(short) },
      { ...axis, size: 52, values: (_, ticks) => ticks.map((tick) => short(tick) + (y === "%" ? " %" : "")) },
    ],
  };
}

/** A number in a legend: under the cursor, or the last one while there is none; of the column `before` the line's own. */
function inLegend(unit, before = 0) {
  return (plot, _, place, index) => {
    const values = plot.data[place - before];
    const said = values[index] ?? values.findLast((known) => known !== null && known !== undefined);
    return short(said) + (unit ? ` ${unit}` : "");
  };
}

/** The lines of a chart that the reader wants to see: x, y and the ends of the band, with label, colour and dash. */
function traces(chart) {
  const found = [];
  report.runs.forEach((run, number) => {
    if (view.hidden.has(number)) return;
    chart.lines.forEach((line, place) => {
      if (several && place > 0 && !line.compared) return;
      const table = line.name in run.evaluations.series ? run.evaluations : run;
      const points = table.series[line.name];
      if (!points) return;
      const scaled = (values) => values && values.map((value) => (value === null ? null : value * chart.factor));
      const ends = line.band ? line.band.map((name) => table.series[name]?.[0]) : [points[1], points[2]];
      found.push({
        ...rising(table.axes[view.axis], [points[0], ...ends].map(scaled)),
        label: several ? (chart.lines.length > 1 && line.compared ? `${run.label}, ${line.label}` : run.label) : line.label,
        colour: lineColour(several ? number : place),
        dash: several ? DASHES[place % DASHES.length] : [],
        smooth: chart.smooth && table === run,
        interval: Boolean(line.band),
      });
    });
  });
  return found;
}

/** The points whose x is known and larger than all before: what a join of several lines needs. */
function rising(x, [y, low, high]) {
  let last = -Infinity;
  const keep = [];
  x.forEach((value, index) => {
    if (value === null || value <= last) return;
    last = value;
    keep.push(index);
  });
  const taken = (values) => values && keep.map((index) => values[index]);
  return { x: taken(x), y: taken(y), low: taken(low), high: taken(high) };
}

/** Exponential moving average that does not begin at 0; gaps stay gaps. */
function smoothed(values, weight) {
  let sum = 0;
  let total = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

/** Draw a chart of lines, each with its band: an interval, or lowest and highest of the steps behind a point. */
function drawLines(host, chart) {
  const shown = traces(chart);
  if (!shown.length) return null;
  const tables = [];
  const series = [{ label: AXES[view.axis], value: inLegend("") }];
  const bands = [];
  const hidden = { class: "quiet", points: { show: false }, spanGaps: true };
  for (const trace of shown) {
    const smooth = trace.smooth && view.smoothing > 0 && trace.y.length > 20;
    const columns = [trace.x];
    let before = 0;
    if (trace.low && trace.high) {
      bands.push({ series: [series.length + 1, series.length], fill: faded(trace.colour, trace.interval ? 0.16 : 0.12) });
      columns.push(trace.low, trace.high);
      series.push({ ...hidden, width: 0 }, { ...hidden, width: 0 });
    } else if (smooth) {
      before = 1;
      columns.push(trace.y);
      series.push({ ...hidden, stroke: faded(trace.colour, 0.28), width: 1 });
    }
    columns.push(smooth ? smoothed(trace.y, view.smoothing) : trace.y);
    tables.push(columns);
    series.push({
      label: trace.label,
      stroke: trace.colour,
      width: 1.75,
      dash: trace.dash,
      spanGaps: true,
      points: { show: trace.x.length <= 40, size: 5, fill: trace.colour },
      value: inLegend(chart.unit, before),
    });
  }
  return new uPlot({ ...frame(host, chart.unit), series, bands }, uPlot.join(tables), host);
}

/** Draw the lines of one run on top of one another; the legend says each one's own number. */
function drawStack(host, chart) {
  const run = report.runs[view.detail];
  const lines = chart.lines.filter((line) => line.name in run.series);
  if (!lines.length) return null;
  const own = lines.map((line) => smoothed(run.series[line.name][0], Math.min(view.smoothing, 0.9)));
  const sums = [];
  own.forEach((values, place) => {
    sums.push(values.map((value, index) => (value ?? 0) + (place ? sums[place - 1][index] : 0)));
  });
  const { x } = rising(run.axes[view.axis], [run.axes[view.axis]]);
  if (x.length !== sums[0].length) return null;
  const series = [{ label: AXES[view.axis], value: inLegend("") }];
  lines.forEach((line, place) => {
    const ink = lineColour(place);
    series.push({
      label: line.label,
      stroke: ink,
      width: 1,
      fill: place ? undefined : faded(ink, 0.45),
      points: { show: false },
      value: (_, __, ___, index) => `${short(own[place][index ?? x.length - 1])} ${chart.unit}`,
    });
  });
  const bands = lines.slice(1).map((_, place) => ({ series: [place + 2, place + 1], fill: faded(lineColour(place + 1), 0.45) }));
  const options = { ...frame(host, chart.unit), series, bands };
  options.scales.y = { range: (_, __, most) => [0, most * 1.05 || 1] };
  return new uPlot(options, [x, ...sums], host);
}
