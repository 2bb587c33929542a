"use strict";
// What a report does: unpacks its data, shows the table, and draws. All text of runs goes in as text, never as HTML.
(async () => {
  const byId = (id) => document.getElementById(id);

  async function unpacked(id) {
    const text = atob(byId(id).textContent);
    const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")));
  }
  if (typeof DecompressionStream === "undefined") {
    byId("summary").textContent = "This browser is too old for the page: it needs Chrome 80, Firefox 113, Safari 16.4 or later.";
    return;
  }
  const data = await (await unpacked("packed-tree")).json();
  const planes = new Uint8Array(await (await unpacked("packed-numbers")).arrayBuffer()), count = planes.length / 4;
  const bytes = new DataView(new ArrayBuffer(planes.length)); // of numbers, whose bytes lie `count` apart in the planes
  for (let plane = 0; plane < 4; ++plane) for (let at = 0; at < count; ++at) bytes.setUint8(4 * at + plane, planes[plane * count + at]);
  const number = (at) => bytes.getFloat32(4 * at, true);
  const array = ([start, size]) => Array.from({ length: size }, (_, at) => number(start + at));
  const runs = data.runs;

  // Small things --------------------------------------------------------------------------------------------------------

  function element(tag, properties = {}, ...children) {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  }
  /** Text that Plotly shows as it is: it takes tags for markup. */
  const plain = (text) => String(text).replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  const readable = (value) => {
    if (value === null || value === undefined) return "–";
    if (typeof value !== "number" || Number.isInteger(value)) return String(value);
    return String(Number(value.toPrecision(4)));
  };
  const short = (key) => {
    const end = key.split(".").pop();
    return data.columns.filter((other) => other.split(".").pop() === end).length === 1 ? end : key;
  };
  const fill = (select, options) =>
    select.replaceChildren(...options.map(([value, text]) => element("option", { value, textContent: text })));
  const styleOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const isDark = () => styleOf("color-scheme").includes("dark");

  function swatch(color, dash) {
    const space = "http://www.w3.org/2000/svg", picture = document.createElementNS(space, "svg"), line = document.createElementNS(space, "line");
    picture.setAttribute("class", "swatch");
    picture.setAttribute("aria-hidden", "true");
    const pattern = { dash: "6 3", dot: "2 3", dashdot: "6 3 2 3", longdash: "10 3" }[dash] || "";
    const looks = { x1: 0, x2: 26, y1: 5, y2: 5, stroke: color, "stroke-width": 2.4, "stroke-dasharray": pattern };
    for (const [key, value] of Object.entries(looks)) line.setAttribute(key, value);
    picture.append(line);
    return picture;
  }

  // Colours: Okabe and Ito for what has no order, steps of viridis for what has one; both lighter on dark paper -------------

  const DARK_CATEGORIES = ["#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#f0e442", "#ffffff"];
  const VIRIDIS = ["#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725"];
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
  const categories = () => (isDark() ? DARK_CATEGORIES : data.palette);
  function step(index, count) {
    const [low, high] = isDark() ? [2.2, 7] : [0, 5.8], at = low + ((high - low) * index) / Math.max(1, count - 1);
    const first = Math.min(Math.floor(at), VIRIDIS.length - 2), share = at - first;
    const part = (color, place) => parseInt(color.slice(place, place + 2), 16);
    const mixed = [1, 3, 5].map((place) => Math.round(part(VIRIDIS[first], place) * (1 - share) + part(VIRIDIS[first + 1], place) * share));
    return `rgb(${mixed.join(",")})`;
  }

  // Plots -----------------------------------------------------------------------------------------------------------------

  const CONFIG = { responsive: true, displaylogo: false, modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]] };
  function layout(x, y, further = {}) {
    const axis = { gridcolor: styleOf("--rule"), linecolor: styleOf("--faint"), zeroline: false, automargin: true };
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", showlegend: false, hovermode: "closest",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: styleOf("--soft") },
      margin: { l: 54, r: 14, t: 46, b: 46 }, // room for the names of events under the buttons
      modebar: { bgcolor: "rgba(0,0,0,0)", color: styleOf("--faint"), activecolor: styleOf("--ink") },
      hoverlabel: { bgcolor: styleOf("--panel"), bordercolor: styleOf("--faint"), font: { color: styleOf("--ink") }, align: "left", namelength: -1 },
      xaxis: { ...axis, ...x }, yaxis: { ...axis, ...y }, ...further,
    };
  }
  const logarithmic = (isLog) => (isLog ? { type: "log", exponentformat: "power" } : { type: "linear", exponentformat: "none", separatethousands: true });
  const draw = (id, traces, form) => Plotly.react(id, traces, form, CONFIG);
  function lineTrace(x, y, look, name, axes, custom) {
    const few = x.filter((value) => value !== null).length <= 2;
    const where = axes.x === "step" ? "step %{x:,d}" : "presentations %{x:,.4~r}";
    const what = where + "<br>" + axes.y + " %{y:.4~g}" + (custom ? "<br>presentations %{customdata:,.4~r}" : "");
    return {
      x, y, customdata: custom, mode: few ? "lines+markers" : "lines", type: "scatter", name: plain(name), connectgaps: false,
      line: { color: look.color, dash: look.dash || "solid", width: look.width || 1.8 }, marker: { size: 5 }, opacity: look.opacity || 1,
      hovertemplate: `<b>${plain(name)}</b><br>${what}<extra></extra>`,
    };
  }
  const levelTrace = (x, level, color) => ({
    x, y: x.map(() => level), mode: "lines", type: "scatter", hoverinfo: "skip", line: { color, dash: "dot", width: 1 }, meta: "limit",
  });

  // Table -----------------------------------------------------------------------------------------------------------------

  const RESULTS = [["loss", "loss"], ["accuracy", "accuracy"]], LIMITS = [["floor", "Bayes floor"], ["ceiling", "Bayes ceiling"]];
  const result = ([key, title]) => ({ title, number: true, of: (run) => (run.result || {})[key] });
  const COLUMNS = [
    { title: "run", of: (run) => run.name },
    { title: "state", of: (run) => run.state.replace(/_/g, " ") },
    ...RESULTS.map(result),
    ...data.columns.map((key) => ({ title: short(key), key, of: (run) => (run.settings || {})[key] })),
    ...LIMITS.map(result),
    { title: "step", number: true, of: (run) => run.step },
  ];
  for (const column of COLUMNS) {
    column.number = column.number || runs.every((run) => [undefined, null].includes(column.of(run)) || typeof column.of(run) === "number");
  }
  const order = { column: null, descending: false };
  let listed = runs.slice();
  const hasCurves = (run) => run.curves && run.curves.length > 0;
  const drawn = new Set(runs.filter(hasCurves).slice(0, data.palette.length));

  function compared(one, other) {
    const [a, b] = [order.column.of(one), order.column.of(other)], missing = (value) => value === null || value === undefined;
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    const numeric = [a, b].map((value) => (value === "inf" ? Infinity : value));
    const sign = order.descending ? -1 : 1;
    if (numeric.every((value) => typeof value === "number")) return sign * (numeric[0] === numeric[1] ? 0 : numeric[0] < numeric[1] ? -1 : 1);
    return sign * String(a).localeCompare(String(b), "en", { numeric: true });
  }
  /** All that a filter looks at: the name, the state, and settings as `key=value`, by their short names too. */
  const searched = new Map(runs.map((run) => {
    const pairs = Object.entries(run.settings || {}).flatMap(([key, value]) => [`${key}=${value}`, `${short(key)}=${value}`]);
    return [run, [run.name, run.state, run.state.replace(/_/g, " "), run.kind || "", ...pairs].join("\n").toLowerCase()];
  }));
  function matches(run, words) {
    const text = searched.get(run);
    return words.every((word) => (word.includes("=") ? `${text}\n`.includes(`${word}\n`) || text.includes(`${word} `) : text.includes(word)));
  }
  function list() {
    const words = byId("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
    listed = runs.filter((run) => matches(run, words));
    if (order.column) listed.sort(compared);
    const rows = listed.map((run) => {
      const box = element("input", { type: "checkbox", checked: drawn.has(run), disabled: !hasCurves(run) });
      box.setAttribute("aria-label", `draw ${run.name}`);
      box.addEventListener("change", () => { box.checked ? drawn.add(run) : drawn.delete(run); drawCurves(); });
      const label = element("label", {}, box, element("span", { textContent: run.name, title: run.name }));
      return element("tr", {}, ...COLUMNS.map((column, index) => {
        if (index === 0) return element("td", { className: "name" }, label);
        const value = readable(column.of(run)), state = index === 1 ? `state-${run.state.replace(/[^a-z_]/g, "")}` : "";
        return element("td", { textContent: value, title: value.length > 30 ? value : "", className: `${column.number ? "number" : "wide"} ${state}` });
      }));
    });
    byId("table").tBodies[0].replaceChildren(...rows);
    byId("matching").textContent = listed.length === runs.length ? `${runs.length} runs` : `${listed.length} of ${runs.length} runs`;
  }
  function makeHead() {
    const cells = COLUMNS.map((column, index) => {
      const button = element("button", { type: "button", textContent: column.title, title: column.key || "" });
      const cell = element("th", { scope: "col", className: `${index === 0 ? "name" : ""} ${column.number ? "number" : ""}` }, button);
      button.addEventListener("click", () => {
        order.descending = order.column === column && !order.descending;
        order.column = column;
        for (const other of byId("table").tHead.rows[0].cells) other.removeAttribute("aria-sort");
        cell.setAttribute("aria-sort", order.descending ? "descending" : "ascending");
        list();
        drawCurves();
      });
      return cell;
    });
    byId("table").tHead.replaceChildren(element("tr", {}, ...cells));
  }

  // Curves ----------------------------------------------------------------------------------------------------------------

  const EVERY = "every", MOST_NAMED = 20;
  const hidden = new Set(); // rank bins that the legend switched off
  /** How each curve looks: by run, or, where all rank bins are asked for, by bin with a dash a run. */
  function looks(shown, byBin) {
    const bins = data.bins.map((_, index) => index).slice(1);
    const many = shown.length > categories().length;
    return (run, bin) => {
      const index = shown.indexOf(run);
      if (byBin) return { color: step(bins.indexOf(bin), bins.length), dash: DASHES[index % DASHES.length], opacity: shown.length > DASHES.length ? 0.6 : 1 };
      return { color: many ? step(index, shown.length) : categories()[index], width: many ? 1.3 : 1.8 };
    };
  }
  const shownRuns = () => listed.filter((run) => drawn.has(run)).concat(runs.filter((run) => drawn.has(run) && !listed.includes(run)));
  const inBin = (wanted, off) => (wanted === EVERY ? (bin) => bin.bin > 0 && !off.has(bin.bin) : (bin) => bin.bin === Number(wanted));

  /** The parts of one measure of a run that a view has: [{x, y, presentations, bin, after, phase}], phases joined by gaps where x is the step. */
  function parts(run, measure, view) {
    const found = [];
    for (const curve of run.curves) {
      const wanted = view.phase === "all" ? !curve.after || view.first : curve.phase === Number(view.phase) && (!curve.after || view.x === "step");
      if (!wanted || (view.x === "presentations" && curve.after)) continue;
      for (const bin of curve.bins.filter(inBin(view.bin, view.hidden))) {
        const presentations = array(bin.presentations), y = array(bin[measure]).map((value) => (Number.isFinite(value) ? value : null));
        const x = view.x === "step" ? array(curve.step) : presentations.map((value) => (value > 0 ? value : null));
        found.push({ x, y, presentations, bin, after: curve.after, phase: curve.phase });
      }
    }
    return found;
  }
  /** The Bayes limit of a part, unless `known` says that it is drawn already: seeds of one experiment may share it. */
  function limitTraces(run, measure, part, color, known) {
    const level = part.bin[measure === "loss" ? "floor" : "ceiling"], x = part.x.filter((value) => value !== null);
    if (typeof level !== "number" || !x.length) return [];
    const ends = [x[0], x[x.length - 1]], key = `${level} ${ends}`;
    if (known.has(key)) return [];
    known.add(key);
    return [levelTrace(ends, level, color)];
  }
  const binName = (index) => data.bins[index].replace("-", "–");
  const suffix = (part) => (part.after ? ", first sequences" : part.phase ? `, after switch ${part.phase}` : "");

  function curveTraces(measure, shown, view, look) {
    const traces = [], known = new Set();
    for (const run of shown) {
      if (measure === "loss" && view.training && view.x === "step" && run.training) {
        const seen = { color: look(run, 1).color, width: 0.8, opacity: 0.5 };
        const loss = array(run.training.loss).map((value) => (Number.isFinite(value) ? value : null));
        traces.push(lineTrace(array(run.training.step), loss, seen, `${run.name}, training`, { x: "step", y: "loss" }));
      }
      for (const part of parts(run, measure, view)) {
        const seen = { ...look(run, part.bin.bin) };
        if (part.after) Object.assign(seen, { dash: "dash", width: 1.1, opacity: 0.75 });
        else if (view.x === "presentations" && view.bin !== EVERY) seen.dash = DASHES[part.phase % DASHES.length];
        const name = `${run.name}, ${binName(part.bin.bin)}${suffix(part)}`;
        traces.push(lineTrace(part.x, part.y, seen, name, { x: view.x, y: measure }, view.x === "step" ? part.presentations : undefined));
        if (view.limits) traces.push(...limitTraces(run, measure, part, seen.color, known));
      }
    }
    return traces;
  }
  /** Lines at what happens once in the runs that are drawn, with the kind written above where there is room. */
  function eventMarks(shown, view) {
    if (view.x !== "step") return {};
    const at = new Map();
    for (const run of shown) for (const event of run.events) if (event.step > 0 && event.step <= (run.step ?? 0)) {
      at.set(event.step, (at.get(event.step) || new Set()).add(event.kind));
    }
    const steps = [...at.keys()].sort((a, b) => a - b);
    if (steps.length > 12) return {};
    const place = (value) => (view.logX ? Math.log10(value) : value);
    return {
      shapes: steps.map((value) => ({ type: "line", x0: value, x1: value, yref: "paper", y0: 0, y1: 1, line: { color: styleOf("--faint"), width: 1, dash: "dash" } })),
      annotations: steps.map((value) => ({
        x: place(value), yref: "paper", y: 1, yanchor: "bottom", showarrow: false, font: { size: 11 },
        text: plain([...at.get(value)].filter((kind, _, kinds) => kind !== "snapshot" || kinds.length === 1).join(", ")),
      })),
    };
  }
  function viewNow() {
    return {
      x: byId("x").value, bin: byId("bin").value, hidden, phase: byId("phase").value, logX: byId("log-x").checked, logLoss: byId("log-loss").checked,
      limits: byId("limits").checked, first: byId("first").checked, training: byId("training").checked,
    };
  }
  function drawCurves() {
    const shown = shownRuns(), view = viewNow(), look = looks(shown, view.bin === EVERY);
    byId("first-label").hidden = view.x !== "step" || view.phase !== "all" || !runs.some((run) => (run.curves || []).some((curve) => curve.after));
    byId("training-label").hidden = view.x !== "step";
    for (const measure of ["loss", "accuracy"]) {
      const x = { title: { text: view.x === "step" ? "step" : "presentations (mean over the ranks)" }, ...logarithmic(view.logX) };
      const y = measure === "loss" ? logarithmic(view.logLoss) : {};
      draw(measure, curveTraces(measure, shown, view, look), layout(x, y, eventMarks(shown, view)));
    }
    curveLegend(shown, view, look);
    curveNote(shown, view);
  }
  function legendButton(text, picture, pressed, act) {
    const button = element("button", { type: "button" }, ...(picture ? [picture] : []), element("span", { textContent: text }));
    button.setAttribute("aria-pressed", String(pressed));
    button.addEventListener("click", act);
    return element("li", {}, button);
  }
  function curveLegend(shown, view, look) {
    const items = [], byBin = view.bin === EVERY;
    const many = shown.length > MOST_NAMED;
    for (const run of many ? [shown[0], shown[shown.length - 1]] : shown) {
      const seen = byBin ? { color: styleOf("--ink"), dash: look(run, 1).dash } : look(run, Number(view.bin));
      items.push(legendButton(run.name, swatch(seen.color, seen.dash), true, () => { drawn.delete(run); list(); drawCurves(); }));
    }
    if (many) items.splice(1, 0, element("li", { textContent: `… ${shown.length - 2} more, in the order of the table …` }));
    if (byBin) data.bins.forEach((_, bin) => {
      if (bin === 0 || !shown.some((run) => run.curves.some((curve) => curve.bins.some((other) => other.bin === bin)))) return;
      const flip = () => { hidden.has(bin) ? hidden.delete(bin) : hidden.add(bin); drawCurves(); };
      items.push(legendButton(binName(bin), swatch(step(bin - 1, data.bins.length - 1)), !hidden.has(bin), flip));
    });
    const keys = [];
    if (view.x === "presentations" && !byBin) {
      const last = Math.max(0, ...shown.flatMap((run) => run.curves.map((curve) => curve.phase)));
      for (let phase = 0; last && phase <= last && view.phase === "all"; ++phase) keys.push([phase ? `after switch ${phase}` : "first sequences", DASHES[phase % DASHES.length]]);
    } else if (view.x === "step" && view.first && view.phase === "all" && !byId("first-label").hidden) keys.push(["first sequences, after a switch", "dash"]);
    if (view.limits) keys.push(["Bayes limit", "dot"]);
    for (const [text, dash] of keys) items.push(element("li", {}, swatch(styleOf("--soft"), dash), text));
    byId("legend").replaceChildren(...items);
  }
  function curveNote(shown, view) {
    const words = [];
    if (!shown.length) words.push("No run is drawn: tick some in the table.");
    if (data.thinned) words.push(`Curves have at most ${data.points} points: of ${data.thinned} ${data.thinned === 1 ? "run" : "runs"} not every evaluation or log line is shown.`);
    words.push("Unweighted means over the scored ranks, with four digits; 0 is the most frequent sequence.");
    if (shown.some((run) => run.never)) words.push("Ranks of probability 0 are never drawn, and in no mean.");
    if (shown.length > categories().length && view.bin !== EVERY) words.push("Colours go from dark to light in the order of the table: sort it by a setting.");
    if (new Set(shown.map((run) => run.task)).size > 1) words.push("Some of these runs name whole sequences and the others predict bits: their accuracies are of different things.");
    byId("curves-note").textContent = words.join(" ");
  }

  // Sweeps ----------------------------------------------------------------------------------------------------------------

  function sweepTraces(view, measure) {
    const traces = [], bars = view.numeric;
    view.lines.forEach((line, index) => {
      const color = view.lines.length === 1 ? categories()[0] : view.lines.length > categories().length ? step(index, view.lines.length) : categories()[index];
      const values = line[measure], label = line.label || "mean";
      const limit = values.limit.map((value) => (typeof value === "number" ? value : null));
      traces.push({ x: values.x, y: limit, mode: "lines", type: "scatter", hoverinfo: "skip", line: { color, dash: "dot", width: 1 }, meta: "limit" });
      traces.push({
        x: values.x, y: values.mean.map((value) => (typeof value === "number" ? value : null)), mode: bars ? "lines" : "markers", type: "scatter", name: plain(label),
        line: { color, width: 1.8 }, marker: { color, symbol: "line-ew-open", size: 20 }, hovertemplate: `<b>${plain(label)}</b><br>mean %{y:.4~g}<extra></extra>`,
      });
      const dots = line.dots.filter((dot) => typeof dot[measure] === "number");
      traces.push({
        x: dots.map((dot) => dot.x), y: dots.map((dot) => dot[measure]), mode: "markers", type: "scatter", marker: { color, size: 7, opacity: 0.55 },
        text: dots.map((dot) => plain(dot.run)), hovertemplate: "<b>%{text}</b><br>%{y:.4~g}<extra></extra>", meta: "runs",
      });
      const lost = line.dots.filter((dot) => dot.state === "diverged");
      if (measure === "loss" && lost.length) traces.push({
        x: lost.map((dot) => dot.x), y: lost.map(() => 1), yaxis: "y2", mode: "markers", type: "scatter", marker: { color, symbol: "x-thin-open", size: 8 },
        text: lost.map((dot) => plain(dot.run)), hovertemplate: "<b>%{text}</b><br>diverged<extra></extra>", cliponaxis: false, meta: "diverged",
      });
    });
    return traces;
  }
  function sweepLayout(view, measure, logLoss) {
    const best = view.best[measure], place = view.log ? Math.log10(best.x) : best.x;
    const ticks = view.numeric ? (view.places.length <= 9 ? { tickvals: view.places, ticktext: view.texts.map(plain) } : {})
      : { tickvals: view.places, ticktext: view.texts.map((text) => plain(text.length > 18 ? `${text.slice(0, 17)}…` : text)) };
    const x = { title: { text: plain(view.key) }, ...logarithmic(view.log), ...ticks };
    return layout(x, measure === "loss" ? logarithmic(logLoss) : {}, {
      shapes: [{ type: "line", x0: best.x, x1: best.x, yref: "paper", y0: 0, y1: 1, line: { color: styleOf("--soft"), width: 1, dash: "dash" } }],
      annotations: [{ x: place, yref: "paper", y: 1, yanchor: "bottom", showarrow: false, text: "best", font: { size: 11 } }],
      yaxis2: { overlaying: "y", range: [0, 1.04], visible: false, fixedrange: true },
    });
  }
  const sweepDraws = [];
  function addSweep(sweep, index) {
    const key = element("select", { id: `sweep-${index}-key` }), log = element("input", { type: "checkbox", id: `sweep-${index}-log` });
    fill(key, sweep.views.map((view, place) => [String(place), view.key]));
    const places = ["loss", "accuracy"].map((measure) => element("div", { id: `sweep-${index}-${measure}`, className: "plot" }));
    const warnings = element("div"), best = element("p", { className: "note" }), legend = element("ul", { className: "legend" });
    const words = sweep.views.some((view) => view.key.split(", ").some((name) => name.endsWith("lr"))) ? "Learning rate" : "Settings";
    byId("sweeps").append(element("section", {},
      element("h2", {}, `${words}: ${sweep.name}`, element("small", { textContent: sweep.counts })), warnings,
      element("div", { className: "controls" }, element("label", {}, "Against ", key), element("label", {}, log, " log loss")), legend,
      element("div", { className: "pair" }, ...places.map((place, at) => element("figure", {}, element("figcaption", { textContent: at ? "final accuracy" : "final loss (nats)" }), place))), best));
    const drawThis = () => {
      const view = sweep.views[Number(key.value)];
      warnings.replaceChildren(...view.warnings.map((text) => element("p", { className: "warning", textContent: `Edge of the grid. By ${text}.` })));
      ["loss", "accuracy"].forEach((measure, at) => draw(places[at].id, sweepTraces(view, measure), sweepLayout(view, measure, log.checked)));
      const many = view.lines.length > categories().length;
      legend.replaceChildren(...view.lines.filter((line) => line.label).map((line, at) =>
        element("li", {}, swatch(view.lines.length === 1 ? categories()[0] : many ? step(at, view.lines.length) : categories()[at]), line.label)));
      const told = ["loss", "accuracy"].map((measure) => `Best ${measure} ${readable(view.best[measure].value)} at ${view.best[measure].text}.`);
      const lost = view.lines.some((line) => line.dots.some((dot) => dot.state === "diverged")) ? " A cross above the loss: a run that diverged." : "";
      best.textContent = `${told.join(" ")} A dot a run, lines through means over seeds; dotted: the Bayes limit of the same ranks.${lost}`;
    };
    key.addEventListener("change", drawThis);
    log.addEventListener("change", drawThis);
    sweepDraws.push(drawThis);
  }

  // Overlay ---------------------------------------------------------------------------------------------------------------

  const overlaid = runs.filter(hasCurves);
  function drawOverlay() {
    if (byId("overlay-section").hidden) return;
    const pair = ["one", "other"].map((id) => overlaid[Number(byId(id).value)]), measure = byId("measure").value;
    const view = { x: "presentations", bin: EVERY, hidden: new Set(), phase: byId("overlay-phase").value, first: false };
    const traces = [], seenBins = new Set(), known = new Set();
    pair.forEach((run, index) => {
      for (const part of parts(run, measure, view)) {
        seenBins.add(part.bin.bin);
        const look = { color: step(part.bin.bin - 1, data.bins.length - 1), dash: index ? "dash" : "solid" };
        traces.push(lineTrace(part.x, part.y, look, `${run.name}, ${binName(part.bin.bin)}${suffix(part)}`, { x: "presentations", y: measure }));
        traces.push(...limitTraces(run, measure, part, look.color, known));
      }
    });
    byId("overlay-caption").textContent = measure === "loss" ? "loss (nats)" : "accuracy";
    draw("overlay", traces, layout({ title: { text: "presentations (mean over the ranks)" }, ...logarithmic(byId("overlay-log").checked) }, {}));
    const keys = [...pair.map((run, index) => [run.name, index ? "dash" : "solid"]), ["Bayes limit", "dot"]];
    byId("overlay-legend").replaceChildren(
      ...keys.map(([text, dash]) => element("li", {}, swatch(styleOf("--ink"), dash), element("span", { textContent: text }))),
      ...[...seenBins].sort((a, b) => a - b).map((bin) => element("li", {}, swatch(step(bin - 1, data.bins.length - 1)), binName(bin))));
    byId("overlay-note").textContent = overlayNotes(pair, Number(view.phase)).join(" ");
  }
  /** What must be known before two curves are compared. */
  function overlayNotes([one, other], phase) {
    const notes = [`${one.name}: ${one.line}.`, `${other.name}: ${other.line}.`];
    const curve = (run) => run.curves.find((found) => found.phase === phase && !found.after);
    const [a, b] = [curve(one), curve(other)], ranks = (found) => found.bins[0].ranks;
    if (one.task !== other.task) notes.push("One names whole sequences, the other predicts bits: their numbers are of different things.");
    for (const [run, found] of [[one, a], [other, b]]) if (!found) notes.push(`${run.name} has scored nothing of these sequences.`);
    if (a && b && (ranks(a) !== ranks(b) || a.every !== b.every || a.last !== b.last)) notes.push(`Means are over the ranks that each has scored, ${ranks(a)} and ${ranks(b)}; mnemo compare takes those that both have.`);
    for (const key of DATA_SETTINGS) {
      const values = [one, other].map((run) => run.settings[key]);
      if (values[0] !== values[1]) notes.push(`${key} differs (${values.map(readable).join(" and ")}).`);
    }
    return notes;
  }
  const DATA_SETTINGS = ["data.num_sequences", "data.length", "data.zipf_exponent", "data.file"];
  /** For a begin: a run of each of two kinds of model, of the same data where there are such, done, and with the least loss. */
  function firstPair() {
    const loss = (run) => (run.result && typeof run.result.loss === "number" ? run.result.loss : 1e3) + (run.state === "done" ? 0 : 1e3);
    const cost = (one, other) => 1e6 * DATA_SETTINGS.filter((key) => one.settings[key] !== other.settings[key]).length + loss(one) + loss(other);
    const kinds = [...data.kinds].sort((a, b) => (a === "dam") - (b === "dam"));
    const [ones, others] = [kinds[0], kinds[kinds.length - 1]].map((kind) => overlaid.filter((run) => run.kind === kind));
    const pairs = ones.flatMap((one) => others.map((other) => ({ pair: [one, other], cost: cost(one, other) })));
    return pairs.reduce((a, b) => (b.cost < a.cost ? b : a)).pair.map((run) => overlaid.indexOf(run));
  }

  // Provenance ------------------------------------------------------------------------------------------------------------

  function pairs(list, entries) {
    list.replaceChildren(...entries.flatMap(([key, value]) => [element("dt", { textContent: key }), element("dd", { textContent: value })]));
  }
  function showProvenance() {
    const versions = Object.entries(data.versions).map(([name, version]) => `${name} ${version}`).join(", ");
    pairs(byId("provenance"), [["made by", versions], ...(data.command ? [["command", data.command]] : [])]);
    byId("configurations").replaceChildren(...runs.map((run) => {
      const about = element("details", {}, element("summary", {}, run.name, element("small", { textContent: run.line || run.state })));
      about.addEventListener("toggle", () => {
        if (!about.open || about.children.length > 1) return;
        const { config, ...rest } = run.provenance || { config: run.config };
        const list = element("dl");
        pairs(list, Object.entries(rest));
        about.append(list, element("pre", { textContent: config, tabIndex: 0 }));
      });
      return about;
    }));
  }

  // Begin -----------------------------------------------------------------------------------------------------------------

  const redraw = () => { drawCurves(); sweepDraws.forEach((act) => act()); drawOverlay(); };
  const phaseCount = 1 + Math.max(0, ...runs.flatMap((run) => (run.curves || []).map((curve) => curve.phase)));
  const phases = [...Array(phaseCount).keys()].map((phase) => [String(phase), phase ? `after switch ${phase}` : "first"]);

  byId("summary").textContent = `${runs.length} ${runs.length === 1 ? "run" : "runs"}: ${data.counts}`;
  if (data.problems.length) {
    byId("problems").hidden = false;
    byId("problems").querySelector("ul").replaceChildren(...data.problems.map((text) => element("li", { textContent: text })));
  }
  const sets = [...new Set(runs.map((run) => (run.result || {}).set).filter(Boolean))];
  byId("table-note").textContent = "Ticked runs are drawn below. " + (sets.length ? `Loss (nats) and accuracy: unweighted means over set ${sets.join(", ")} at the last evaluation, beside the Bayes predictor over the same ranks.` : "No run has been evaluated yet.");
  fill(byId("bin"), [["0", data.bins[0]], [EVERY, "each bin"], ...data.bins.slice(1).map((_, index) => [String(index + 1), binName(index + 1)])]);
  byId("bin").value = drawn.size === 1 ? EVERY : "0";
  fill(byId("phase"), [["all", "current"], ...phases]);
  byId("phase-label").hidden = phaseCount === 1;
  byId("main").hidden = false;

  makeHead();
  list();
  data.sweeps.forEach(addSweep);
  if (data.kinds.length > 1) {
    byId("overlay-section").hidden = false;
    for (const id of ["one", "other"]) fill(byId(id), overlaid.map((run, index) => [String(index), run.name]));
    firstPair().forEach((index, place) => { byId(["one", "other"][place]).value = String(index); });
    fill(byId("overlay-phase"), phases);
  }
  showProvenance();
  redraw();

  byId("filter").addEventListener("input", () => { list(); drawCurves(); });
  byId("draw-listed").addEventListener("click", () => { listed.filter(hasCurves).forEach((run) => drawn.add(run)); list(); drawCurves(); });
  byId("draw-none").addEventListener("click", () => { drawn.clear(); list(); drawCurves(); });
  byId("x").addEventListener("change", () => { byId("log-x").checked = byId("x").value === "presentations"; drawCurves(); });
  for (const id of ["bin", "phase", "log-x", "log-loss", "limits", "first", "training"]) byId(id).addEventListener("change", drawCurves);
  for (const id of ["one", "other", "measure", "overlay-phase", "overlay-log"]) byId(id).addEventListener("change", drawOverlay);
  byId("theme").addEventListener("click", () => { document.documentElement.dataset.theme = isDark() ? "light" : "dark"; redraw(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  document.documentElement.dataset.ready = "true";
})();
