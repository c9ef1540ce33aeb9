"use strict";

/** What the page shows; see report.py for its shape. Every text in it is foreign: it becomes text nodes, never HTML. */
const report = JSON.parse(document.getElementById("data").textContent);

/** What the reader chose. `detail` is the run of the pictures that can show one run only. */
const view = { axis: "step", smoothing: 0.6, hidden: new Set(), detail: 0 };

const several = report.runs.length > 1;

/** An element. Properties are set as they are named; `on` holds listeners, children are nodes or texts. */
function make(tag, properties = {}, ...children) {
  const { on = {}, ...rest } = properties;
  const element = Object.assign(document.createElement(tag), rest);
  for (const [event, listener] of Object.entries(on)) element.addEventListener(event, listener);
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A choice among [value, label] pairs. */
function choice(label, options, chosen, changed) {
  const select = make("select", { on: { change: () => changed(select.value) } });
  for (const [value, text] of options) select.append(make("option", { value, textContent: text }));
  select.value = chosen;
  return make("label", {}, `${label} `, select);
}

/** A number in four digits or so: 12,345 · 0.1234 · 3.2e-7. */
function short(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const size = Math.abs(value);
  if (size < 1e-12) return "0"; // what rounding leaves
  if (size < 1e-3) return value.toExponential(1);
  if (size >= 1e6) return value.toLocaleString("en", { notation: "compact", maximumSignificantDigits: 4 });
  return value.toLocaleString("en", { maximumSignificantDigits: size >= 1e4 ? 5 : 4 });
}

/** A colour of the style sheet, as the theme has it now. */
function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function lineColour(number) {
  return colour(`line-${number % 8}`);
}

/** `#rrggbb` with an opacity between 0 and 1. */
function faded(hex, opacity) {
  return hex + Math.round(255 * opacity).toString(16).padStart(2, "0");
}

const AXES = { step: "step", hours: "hours", completions: "completions", tokens: "tokens" };
