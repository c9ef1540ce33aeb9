"use strict";

/** Draw a metric of the tenths of v̂ over the run of one run: a column for each point, darker where there is more. */
function drawTenths(host, chart) {
  const run = report.runs[view.detail];
  const rows = run.heats[chart.lines[0].name];
  if (!rows) return null;
  const x = run.axes[view.axis];
  const signed = chart.kind === "bias";
  const most = signed ? 0.4 : Math.max(...rows.map((row) => row.reduce((a, b) => Math.max(a, b ?? 0), 0))) || 1;
  const inks = signed ? [colour("below"), colour("above")] : [colour("heat"), colour("heat")];
  const readout = make("output", { className: "readout" });

  function cells(plot) {
    const { ctx } = plot;
    const left = (index) => plot.valToPos(index ? (x[index - 1] + x[index]) / 2 : x[0], "x", true);
    for (let index = 0; index < x.length; index += 1) {
      // Whole pixels: columns that overlap by a part of one would show as seams.
      const from = Math.round(left(index));
      const to = Math.round(index + 1 < x.length ? left(index + 1) : plot.valToPos(x[index], "x", true));
      rows.forEach((row, tenth) => {
        const value = row[index];
        if (!value) return;
        const top = plot.valToPos((tenth + 1) / 10, "y", true);
        ctx.fillStyle = faded(inks[value > 0 ? 1 : 0], Math.min(signed ? Math.abs(value) / most : Math.sqrt(value / most), 1));
        ctx.fillRect(from, top, to - from, plot.valToPos(tenth / 10, "y", true) - top);
      });
    }
  }

  function read(plot) {
    const index = plot.cursor.idx;
    if (index === null || index === undefined || plot.cursor.top < 0) {
      readout.textContent = signed ? "red: less than v̂ promised · blue: more" : `strongest colour: ${short(100 * most)} %`;
      return;
    }
    const tenth = Math.min(9, Math.max(0, Math.floor(10 * plot.posToVal(plot.cursor.top, "y"))));
    const value = rows[tenth][index];
    const said = value === null ? "nothing" : signed ? short(value) : `${short(100 * value)} %`;
    readout.textContent = `${AXES[view.axis]} ${short(x[index])} · v̂ ${tenth / 10}–${(tenth + 1) / 10}: ${said}`;
  }

  const options = frame(host, "");
  options.scales.y = { range: [0, 1] };
  options.legend = { show: false };
  for (const axis of options.axes) axis.grid = { show: false };
  options.cursor.points = { show: false };
  options.series = [{}, { points: { show: false }, paths: () => null }];
  options.hooks = { drawClear: [clipped(cells)], setCursor: [read], ready: [read] };
  const plot = new uPlot(options, [x, x.map(() => 0.5)], host);
  host.append(readout);
  return plot;
}

/** A drawing that stays inside the plot when it is zoomed. */
function clipped(drawing) {
  return (plot) => {
    const { left, top, width, height } = plot.bbox;
    plot.ctx.save();
    plot.ctx.beginPath();
    plot.ctx.rect(left, top, width, height);
    plot.ctx.clip();
    drawing(plot);
    plot.ctx.restore();
  };
}

/** Draw mean reward against mean v̂ for the parts of one run; on the dashed diagonal v̂ is right. */
function drawCalibration(host) {
  const names = ["first third", "second third", "last third"];
  const curves = report.runs[view.detail].calibration
    .map(([x, y], part) => ({ ...rising(x, [y]), label: names[part], ink: lineColour(part) }))
    .filter((curve) => curve.x.length > 1);
  if (!curves.length) return null;
  const point = { value: inLegend(""), spanGaps: true };
  const series = [
    { label: "v̂", class: "quiet" },
    { ...point, label: "right", class: "quiet", stroke: colour("muted"), dash: [4, 4], points: { show: false } },
    ...curves.map(({ label, ink }) => ({
      ...point, label, stroke: ink, width: 1.75, points: { show: true, size: 6, fill: ink },
    })),
  ];
  const options = { ...frame(host, ""), series };
  options.cursor.sync = { key: null };
  options.legend = { live: false };
  options.scales = { x: { time: false, range: [0, 1] }, y: { range: [0, 1] } };
  return new uPlot(options, uPlot.join([[[0, 1], [0, 1]], ...curves.map(({ x, y }) => [x, y])]), host);
}
