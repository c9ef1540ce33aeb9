"use strict";

const AT_ONCE = 100;

/** The samples of one run with what narrows them down: a filter for each thing one looks for, and an order. */
function samplesOf(run) {
  const { columns, of_text: ofText, texts, rows } = run.samples;
  const at = Object.fromEntries(columns.map((name, place) => [name, place]));
  const isText = new Set(ofText);
  const get = (row, name) => {
    const value = row[at[name]];
    return isText.has(name) && value !== null ? texts[value] : value;
  };
  const orders = {
    "step, newest first": (row) => get(row, "step"),
    "reward, highest first": (row) => get(row, "reward"),
    "reward, lowest first": (row) => negative(get(row, "reward")),
    "v̂, highest first": (row) => get(row, "v_hat"),
    "surprise, largest first": (row) => get(row, "surprise"),
    "longest first": (row) => get(row, "num_tokens"),
    "gap, largest first": (row) => get(row, "gap"),
  };
  const wanted = { text: "", kind: "", source: "", why: "", rewardFrom: "", rewardTo: "", vFrom: "", vTo: "", order: "step, newest first" };
  let lowered = null;
  let shown = [];

  const count = make("span", { className: "count" });
  const body = make("tbody");
  const more = make("button", { className: "more", textContent: "Show more", on: { click: () => append() } });
  const heads = ["step", "kind", "why", "reward", "v̂", "tokens", "prompt", "completion"];
  const table = make(
    "table", { className: "samples" },
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col", className: `c-${head}`, textContent: head })))),
    body,
  );

  function passes(row) {
    const within = (value, from, to) =>
      (from === "" || (value !== null && value >= Number(from))) && (to === "" || (value !== null && value <= Number(to)));
    if (wanted.kind && get(row, "kind") !== wanted.kind) return false;
    if (wanted.source && get(row, "source") !== wanted.source) return false;
    if (wanted.why && !(get(row, "why") ?? []).includes(wanted.why)) return false;
    if (!within(get(row, "reward"), wanted.rewardFrom, wanted.rewardTo)) return false;
    if (!within(get(row, "v_hat"), wanted.vFrom, wanted.vTo)) return false;
    if (!wanted.text) return true;
    lowered ??= texts.map((text) => text.toLowerCase());
    const sought = wanted.text.toLowerCase();
    return ["prompt", "completion", "answer", "unscored", "prompt_id"].some((name) => lowered[row[at[name]]]?.includes(sought));
  }

  function update() {
    const value = orders[wanted.order];
    shown = rows.filter(passes).map((row) => [value(row) ?? -Infinity, row]);
    shown.sort(([left], [right]) => (left === right ? 0 : right - left));
    count.textContent = `${shown.length.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
    body.replaceChildren();
    append();
  }

  function append() {
    const from = body.querySelectorAll("tr.sample").length;
    body.append(...shown.slice(from, from + AT_ONCE).map(([, row]) => line(row)));
    more.hidden = from + AT_ONCE >= shown.length;
  }

  function line(row) {
    const cell = (head, text, title) => make("td", { className: `c-${head}`, title: title ?? "" }, text);
    const reward = get(row, "reward");
    const why = (get(row, "why") ?? []).join(", ");
    const button = make("button", { className: "open", ariaExpanded: "false" }, short(get(row, "step")));
    const element = make(
      "tr", { className: "sample" },
      make("td", { className: "c-step" }, button),
      cell("kind", get(row, "kind") ?? ""),
      cell("why", why, why),
      cell("reward", reward === null ? "unscored" : short(reward)),
      cell("v̂", short(get(row, "v_hat"))),
      cell("tokens", short(get(row, "num_tokens"))),
      cell("prompt", excerpt(get(row, "prompt"))),
      cell("completion", excerpt(get(row, "completion"))),
    );
    let opened = null;
    element.addEventListener("click", () => {
      if (opened) opened.remove();
      else element.after((opened = make("tr", { className: "opened" }, make("td", { colSpan: heads.length }, detail(row)))));
      if (!opened.isConnected) opened = null;
      button.ariaExpanded = String(opened !== null);
    });
    return element;
  }

  function detail(row) {
    const facts = columns
      .filter((name) => !["prompt", "completion", "answer", "unscored"].includes(name))
      .map((name) => [name.replaceAll("_", " "), get(row, name)])
      .filter(([, value]) => value !== null && value !== undefined && !isEmpty(value));
    const block = (name) => {
      const text = get(row, name);
      return text === null ? null : make("section", {}, make("h4", { textContent: name }), make("pre", { textContent: text }));
    };
    return make(
      "div", { className: "detail" },
      ...["prompt", "completion", "answer", "unscored"].map(block),
      make("dl", {}, ...facts.flatMap(([name, value]) => [
        make("dt", { textContent: name }), make("dd", { textContent: plain(value) }),
      ])),
    );
  }

  let waiting = 0;
  const set = (name) => (value) => {
    wanted[name] = value;
    clearTimeout(waiting);
    waiting = setTimeout(update, 120);
  };
  const among = (name) => [...new Set(rows.flatMap((row) => get(row, name) ?? []))].sort();
  const options = (name) => [["", "any"], ...among(name).map((value) => [value, value])];
  const bound = (name, label) => {
    const input = make("input", { type: "number", step: "any", ariaLabel: label, on: { input: () => set(name)(input.value) } });
    return input;
  };
  const search = make("input", {
    type: "search", placeholder: "prompt, completion, answer", ariaLabel: "text", on: { input: () => set("text")(search.value) },
  });
  const filters = make(
    "div", { className: "filters" },
    make("label", { className: "wide" }, "text ", search),
    choice("kind", options("kind"), "", set("kind")),
    among("source").length > 1 ? choice("source", options("source"), "", set("source")) : null,
    choice("why", options("why"), "", set("why")),
    make("span", {}, "reward ", bound("rewardFrom", "reward from"), " – ", bound("rewardTo", "reward to")),
    make("span", {}, "v̂ ", bound("vFrom", "v̂ from"), " – ", bound("vTo", "v̂ to")),
    choice("order", Object.keys(orders).map((name) => [name, name]), wanted.order, set("order")),
    count,
  );
  update();
  return make("div", {}, filters, make("div", { className: "scroll" }, table), more);
}

function negative(value) {
  return value === null ? null : -value;
}

function excerpt(text) {
  const line = (text ?? "").replace(/\s+/g, " ").trim();
  return line.length > 300 ? `${line.slice(0, 300)}…` : line;
}

function isEmpty(value) {
  return typeof value === "object" && Object.keys(value).length === 0;
}

/** A value of a sample in words: lists with commas, mappings as `name 0.5, other 1`. */
function plain(value) {
  if (Array.isArray(value)) return value.map(plain).join(", ");
  if (value !== null && typeof value === "object") {
    return Object.entries(value).map(([name, inner]) => `${name} ${plain(inner)}`).join(", ");
  }
  return typeof value === "number" ? short(value) : String(value);
}
