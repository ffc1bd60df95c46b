// The settings of a page, applied to the spec of each chart before it is drawn.
const TITLES = {
  step: "step", tokens: "tokens seen",
  position_step: "step, counted through all stages", position_tokens: "tokens seen, counted through all stages",
};
const COUNTED = {
  step: { step: "step", tokens: "step", position_step: "position_step", position_tokens: "position_step" },
  tokens: { step: "tokens", tokens: "tokens", position_step: "position_tokens", position_tokens: "position_tokens" },
};
const ofTitle = Object.fromEntries(Object.entries(TITLES).map(([name, title]) => [title, name]));
const timeOf = (channel) => (channel?.type === "quantitative" ? (channel.field in TITLES ? channel.field : ofTitle[channel.title]) : undefined);
const finite = (value) => typeof value === "number" && Number.isFinite(value);
const range = (values) => values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);

// The function that turns places on one time axis into places on another, from the rows that have both.
const between = (rows, from, to) => {
  const both = new Map(rows.filter((row) => finite(row[from]) && finite(row[to])).map((row) => [row[from], row[to]]));
  const known = [...both].sort((one, other) => one[0] - other[0]);
  if (!known.length) return undefined;
  if (known.length === 1) return (value) => (known[0][0] ? (value * known[0][1]) / known[0][0] : known[0][1]);
  return (value) => {
    if (both.has(value)) return both.get(value);
    const after = known.findIndex(([place]) => place > value);
    const at = Math.max(1, after < 0 ? known.length - 1 : after);
    const [[x0, y0], [x1, y1]] = [known[at - 1], known[at]];
    return y0 + ((value - x0) * (y1 - y0)) / (x1 - x0);
  };
};

const niceStep = (rough) => {
  const power = 10 ** Math.floor(Math.log10(rough));
  return power * ([1, 2, 5].find((digit) => digit * power >= rough) ?? 10);
};

// Ticks of a time axis, the last place among them.
const ticksOf = (kind, low, high, constant) => {
  if (!(high > low)) return [low];
  if (kind === "linear") {
    const step = niceStep((high - low) / 5);
    const first = Math.ceil(low / step);
    const count = Math.max(0, Math.floor((high - 0.6 * step) / step) - first + 1);
    return [...Array.from({ length: count }, (_, place) => (first + place) * step), high];
  }
  const first = Math.round(Math.log10(constant));
  const count = Math.max(0, Math.floor(Math.log10(high / 2)) - first + 1);
  return [...(low <= 0 ? [0] : []), ...Array.from({ length: count }, (_, place) => 10 ** (first + place)), high];
};

const timeScale = (wanted, drawn, values) => {
  const positive = values.filter((value) => value > 0);
  const constant = 10 ** Math.floor(Math.log10(range(positive)[0]));
  const kind = wanted || drawn;
  if (kind === "linear" || !positive.length) return { type: "linear", zero: false, constant: 1 };
  return range(values)[0] > 0 && kind === "log" ? { type: "log", constant } : { type: "symlog", constant };
};

const retime = (spec, tables, settings) => {
  const moved = new Set();
  for (const { unit, rows: name } of units(spec)) {
    const x = unit.encoding?.x;
    const own = timeOf(x);
    const rows = tables[name] ?? [];
    if (!own) continue;
    const to = COUNTED[settings.time][own];
    const move = to === own ? undefined : between(rows, own, to);
    const now = move ? to : own;
    if (move) {
      for (const [field, channel] of [[x.field, x], [unit.encoding.x2?.field, unit.encoding.x2]]) {
        if (!field) continue;
        if (field in TITLES) channel.field = COUNTED[settings.time][field];
        else if (!moved.has(`${name} ${field}`)) {
          moved.add(`${name} ${field}`);
          for (const row of rows) if (finite(row[field])) row[field] = move(row[field]);
        }
      }
      for (const step of unit.transform ?? []) if (step.groupby?.includes(own)) step.groupby.push(to);
      if (Array.isArray(x.scale?.domain) && x.scale.domain.every(finite)) x.scale.domain = x.scale.domain.map(move);
      x.title = TITLES[to];
      if (spec.title?.text) spec.title.text = spec.title.text.replace(`→ ${TITLES[own]}`, `→ ${TITLES[to]}`);
    }
    if (!move && !settings.scale) continue;
    const values = rows.map((row) => row[now]).filter(finite);
    if (!values.length) continue;
    const { constant, ...scale } = timeScale(settings.scale, x.scale?.type ?? "linear", values);
    const kept = x.scale?.domain === undefined ? { nice: false, padding: x.scale?.padding } : { nice: false, domain: x.scale.domain };
    x.scale = { ...scale, ...(scale.type === "symlog" ? { constant } : {}), ...kept };
    const places = ticksOf(scale.type, ...range(values), constant).reverse(); // overlapping labels give way to the last place
    x.axis = { grid: false, labelOverlap: "greedy", values: places, labelExpr: "replace(format(datum.value, '.3~s'), 'G', 'B')",
      ...(x.axis?.title === null ? { title: null } : {}) };
  }
};

const revalue = (spec, tables, settings) => {
  if (!settings.values) return;
  const views = new Map();
  for (const each of units(spec)) views.set(each.view, [...(views.get(each.view) ?? []), each]);
  for (const held of views.values()) {
    const measured = held.filter(({ unit }) => unit.encoding?.y?.type === "quantitative" && unit.encoding.y.field);
    const kind = (unit) => unit.mark.type ?? unit.mark;
    if (!measured.length || held.some(({ unit }) => ["bar", "rect"].includes(kind(unit)))) continue;
    const main = measured.map(({ unit }) => unit.encoding.y.field).find((field) => field !== "label_y");
    const fields = measured.flatMap(({ unit, rows }) => [unit.encoding.y.field, unit.encoding.y2?.field].filter((field) => field && field !== "label_y").map((field) => [rows, field]));
    const positive = fields.every(([rows, field]) => (tables[rows] ?? []).every((row) => !finite(row[field]) || row[field] > 0));
    if (settings.values === "log" && !positive) continue; // a logarithm has no place for them
    for (const { unit } of measured) {
      const y = unit.encoding.y;
      if (y.field === "label_y") y.field = main;
      y.scale = settings.values === "log" ? { type: "log", nice: false, padding: 5 } : { type: "linear", zero: false, padding: 5 };
      if (y.axis) delete y.axis.values;
    }
  }
};

// Lines become means over the neighbouring points; the dots stay what was measured.
const smooth = (spec, tables, settings) => {
  if (!settings.smoothing) return;
  for (const { unit, panels, rows } of units(spec)) {
    const { x, y, color, detail, strokeDash } = unit.encoding ?? {};
    if ((unit.mark.type ?? unit.mark) !== "line" || !timeOf(x) || !y?.field || y.aggregate || y.field === "label_y") continue;
    const conditions = [color?.condition].flat().filter(Boolean);
    const named = [color, strokeDash, ...[detail].flat(), ...conditions].map((channel) => channel?.field).filter(Boolean);
    const held = Object.keys(tables[rows]?.[0] ?? {});
    const groupby = [...new Set([...named, ...panels, ...["line", "run"].filter((name) => held.includes(name))])];
    const smoothed = `${y.field} (smoothed)`;
    const frame = [-settings.smoothing, settings.smoothing];
    unit.transform = [...(unit.transform ?? []), { window: [{ op: "mean", field: y.field, as: smoothed }], frame, groupby, sort: [{ field: x.field }] }];
    unit.encoding.y = { ...y, field: smoothed, title: y.title ?? y.field };
  }
};

const applied = (spec, tables, settings) => {
  retime(spec, tables, settings);
  revalue(spec, tables, settings);
  smooth(spec, tables, settings);
};
