"use strict";

const DRAW = { lines: drawLines, stack: drawStack, heat: drawTenths, bias: drawTenths, calibration: drawCalibration };
const OF_ONE_RUN = new Set(["stack", "heat", "bias", "calibration"]);

/** Pictures on the page: where each stands, what draws it, and what was drawn. */
const pictures = new Map();

const seen = new IntersectionObserver(
  (entries) => {
    for (const { target, isIntersecting } of entries) {
      const picture = pictures.get(target);
      picture.near = isIntersecting;
      if (isIntersecting && !picture.plot) draw(picture);
    }
  },
  { rootMargin: "400px" },
);
const resized = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) {
    const { plot } = pictures.get(target);
    if (plot && contentRect.width && plot.width !== contentRect.width) plot.setSize({ width: contentRect.width, height: HEIGHT });
  }
});

function draw(picture) {
  picture.plot?.destroy();
  picture.host.replaceChildren();
  picture.plot = picture.drawing(picture.host);
  picture.figure.classList.toggle("empty", !picture.plot);
}

/** Draw again what can be seen; the rest when it comes near, or there is nothing else to do. */
function redraw() {
  for (const picture of pictures.values()) {
    if (picture.near) draw(picture);
    else picture.plot = void picture.plot?.destroy();
  }
  requestIdleCallback(drawNext);
}

const missing = () => [...pictures.values()].filter((picture) => !picture.plot && !picture.figure.classList.contains("empty"));

function drawNext() {
  const [next] = missing();
  if (!next) return;
  draw(next);
  requestIdleCallback(drawNext);
}

addEventListener("beforeprint", () => missing().forEach(draw));

/** A figure that draws itself as soon as it is about to be seen. */
function figure(chart) {
  const host = make("div", { className: "plot" });
  const [first, ...others] = chart.lines;
  const oneLine = several && chart.kind === "lines" && others.length > 0 && !first.compared;
  const title = oneLine ? `${chart.title}: ${first.label}` : chart.title;
  const ofOne = several && OF_ONE_RUN.has(chart.kind) ? make("span", { className: "of" }) : null;
  const element = make(
    "figure", {},
    make("figcaption", {}, make("h3", { textContent: title }), ofOne, make("p", { textContent: chart.note })),
    host,
  );
  const drawing = () => {
    if (ofOne) ofOne.textContent = report.runs[view.detail].label;
    return DRAW[chart.kind](host, chart);
  };
  pictures.set(host, { host, figure: element, drawing, plot: null, near: false });
  seen.observe(host);
  resized.observe(host);
  return element;
}

/** Whether some run has what the picture shows. */
function hasData(chart) {
  return report.runs.some((run) => {
    if (chart.kind === "calibration") return run.calibration.some(([x]) => x.length > 1);
    if (OF_ONE_RUN.has(chart.kind) && chart.kind !== "stack") return chart.lines[0].name in run.heats;
    return chart.lines.some((line) => line.name in run.series || line.name in run.evaluations.series);
  });
}

/** What never changes, in words instead of a picture; null where something does. */
function constant(chart) {
  if (chart.kind !== "lines") return null;
  const said = chart.lines.map((line) => {
    const tables = report.runs.flatMap((run) => [run.series, run.evaluations.series]);
    const values = new Set(tables.flatMap((series) => (series[line.name] ?? []).flat()).filter((value) => value !== null));
    return values.size === 1 ? `${short([...values][0] * chart.factor)} ${chart.unit}`.trim() : null;
  });
  if (said.includes(null)) return null;
  const one = new Set(said).size === 1;
  const numbers = one ? said[0] : said.map((number, place) => `${chart.lines[place].label} ${number}`).join(", ");
  return `${chart.title}: ${numbers}`;
}

function section(title, ...children) {
  const id = title.toLowerCase().replace(/\W+/g, "-");
  return make("section", { id }, make("h2", { textContent: title }), ...children.filter(Boolean));
}

/** What a run was, gained, and what looks wrong. */
function inWords(run, number) {
  const gains = run.gains.map((gain) =>
    make(
      "div", { className: `gain ${gain.verdict}` },
      make("p", { className: "label", textContent: gain.label }),
      make("p", { className: "change" }, make("b", { textContent: gain.before }), " → ", make("b", { textContent: gain.after })),
      make("p", {}, gain.change, gain.verdict === "unclear" ? "; the interval holds 0: no clear change" : ""),
    ),
  );
  const facts = run.facts.flatMap(([label, value]) => [
    make("dt", { textContent: label }), make("dd", { textContent: value }),
  ]);
  const verdicts = run.verdicts.map((verdict) =>
    make(
      "li", {},
      make("b", { textContent: `Step ${verdict.step}: ` }), `${verdict.text}. `,
      make("span", { className: "advice", textContent: verdict.advice }),
    ),
  );
  const marker = make("span", { className: "marker" });
  marker.style.background = `var(--line-${number % 8})`;
  return make(
    "article", { className: "run" },
    several ? make("h3", {}, marker, run.label) : null,
    make("p", { className: "story", textContent: run.story }),
    ...run.notes.map((note) => make("p", { className: "note", textContent: note })),
    make("div", { className: "gains" }, ...gains),
    make(
      "div", { className: "two" },
      make("div", {}, make("h4", { textContent: "What was trained" }), make("dl", {}, ...facts)),
      make(
        "div", {},
        make("h4", { textContent: "What looks wrong" }),
        verdicts.length ? make("ul", { className: "verdicts" }, ...verdicts) : make("p", { className: "fine", textContent: "Nothing that the records show." }),
      ),
    ),
    run.settings ? make("details", {}, make("summary", { textContent: "All settings" }), make("pre", { textContent: run.settings })) : null,
  );
}

/** The settings in which the runs differ. */
function differences() {
  const heads = ["setting", ...report.runs.map((run) => run.label)];
  const rows = report.differences.map(([key, values]) =>
    make("tr", {}, make("th", { scope: "row", textContent: key }), ...values.map((value) => make("td", { textContent: value }))),
  );
  const table = make(
    "table", {}, make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col", textContent: head })))), make("tbody", {}, ...rows),
  );
  return section("Settings that differ", rows.length ? make("div", { className: "scroll" }, table) : make("p", { textContent: "None." }));
}

/** Any metric there is, by its name. */
function anyMetric() {
  const names = [...new Set(report.runs.flatMap((run) => [...Object.keys(run.series), ...Object.keys(run.evaluations.series)]))].sort();
  const chart = { kind: "lines", title: "", note: "", unit: "", factor: 1, smooth: true, lines: [{ name: names[0], label: names[0] }] };
  const shown = figure(chart);
  const pick = choice("metric", names.map((name) => [name, name]), names[0], (name) => {
    chart.lines = [{ name, label: name }];
    draw(pictures.get(shown.querySelector(".plot")));
  });
  return section("Any metric", pick, make("div", { className: "charts" }, shown));
}

function samples() {
  const run = report.runs[view.detail];
  const none = "There are none: samples/ in the run directory is empty or missing.";
  return section("Samples", run.samples.rows.length ? samplesOf(run) : make("p", { textContent: none }));
}

function controls() {
  const slider = make("input", {
    type: "range", min: "0", max: "0.98", step: "0.02", value: String(view.smoothing), ariaLabel: "smoothing",
    on: { input: () => { view.smoothing = Number(slider.value); redraw(); } },
  });
  const theme = make("button", {
    textContent: "◐", title: "light or dark", ariaLabel: "light or dark",
    on: { click: () => setTheme(document.documentElement.dataset.theme === "light") },
  });
  return make(
    "div", { className: "controls" },
    choice("over", Object.entries(AXES), view.axis, (axis) => { view.axis = axis; redraw(); }),
    make("label", {}, "smoothing ", slider),
    several ? choice("single run", report.runs.map((run, number) => [String(number), run.label]), "0", (number) => {
      view.detail = Number(number);
      document.getElementById("samples").replaceWith(samples());
      redraw();
    }) : null,
    theme,
  );
}

/** The runs as buttons that show and hide their lines. */
function runButtons() {
  return make("div", { className: "runs" }, ...report.runs.map((run, number) => {
    const marker = make("span", { className: "marker" });
    marker.style.background = `var(--line-${number % 8})`;
    const button = make("button", {
      ariaPressed: "true",
      on: { click: () => {
        if (!view.hidden.delete(number)) view.hidden.add(number);
        button.ariaPressed = String(!view.hidden.has(number));
        redraw();
      } },
    }, marker, run.label);
    return button;
  }));
}

function setTheme(dark) {
  document.documentElement.dataset.theme = dark ? "dark" : "light";
  redraw();
}

function build() {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  dark.addEventListener("change", () => setTheme(dark.matches));
  setTheme(dark.matches);
  const charts = report.sections.flatMap(({ title, charts: all }) => {
    const some = all.filter((chart) => hasData(chart) && (several || !chart.for_several));
    const same = some.map(constant).filter(Boolean);
    const figures = some.filter((chart) => !constant(chart)).map(figure);
    const words = same.length ? make("p", { className: "same", textContent: `The same in all steps: ${same.join(" · ")}` }) : null;
    return some.length ? [section(title, make("div", { className: "charts" }, ...figures), words)] : [];
  });
  const words = section("In words", make("div", { className: "words" }, ...report.runs.map(inWords)));
  const sections = [words, several ? differences() : null, ...charts, charts.length ? anyMetric() : null, samples()].filter(Boolean);
  const links = sections.map((part) => make("a", { href: `#${part.id}`, textContent: part.querySelector("h2").textContent }));
  document.getElementById("header").append(
    make("div", { className: "title" }, make("h1", { textContent: several ? `${report.runs.length} runs` : report.title }), make("p", { textContent: `bolt-ray report, written ${report.written}` })),
    controls(),
    several ? runButtons() : "",
    make("nav", {}, ...links),
  );
  document.getElementById("main").replaceChildren(...sections);
  requestIdleCallback(drawNext);
  if (report.live) setInterval(reloadWhenIdle, 15_000);
}

/** Load the page again unless its reader is in the middle of something. */
function reloadWhenIdle() {
  const busy = document.querySelector("tr.opened") || document.activeElement?.matches("input, select") || document.hidden;
  if (!busy) location.reload();
}

build();
