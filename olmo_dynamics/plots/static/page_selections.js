// What a reader selected in a picture, written into the spec of the picture that takes its place.
function* parametersOf(spec) {
  yield* spec.params ?? [];
  const parts = [spec.spec, spec.layer, spec.concat, spec.hconcat, spec.vconcat].flat().filter(Boolean);
  for (const part of parts) yield* parametersOf(part);
}
const isInterval = (parameter) => parameter.select === "interval" || parameter.select?.type === "interval";

const selected = (view, parameter) => {
  const store = `${parameter.name}_store`;
  const { signals, data } = view.getState({ signals: (name) => name === parameter.name, data: (name) => name === store });
  if (!parameter.select) return signals?.[parameter.name];
  if (parameter.bind === "scales") { // an interval of the axis that is shown
    const [shown] = Object.values(signals?.[parameter.name] ?? {});
    return shown && { [parameter.select.encodings?.[0] ?? "x"]: shown };
  }
  const held = data?.[store] ?? [];
  const parts = held.map(({ fields, values }) => Object.fromEntries(fields.map(({ channel, field }, at) => [isInterval(parameter) ? channel : field, values[at]])));
  const marked = parts.filter((part) => Object.values(part).every((value) => value != null)); // not those of a click beside the marks
  return isInterval(parameter) ? marked[0] : marked.length ? marked : undefined;
};

const chosen = new WeakSet(); // parameters that hold what a reader selected, not what a chart begins with

// Intervals are on a time axis: they are kept only where the new picture has the same one.
const keepSelections = (view, before, spec, sameTime = true) => {
  const known = new Map([...parametersOf(before)].map((parameter) => [parameter.name, parameter]));
  for (const parameter of parametersOf(spec)) {
    const old = known.get(parameter.name);
    if (!old || isInterval(old) !== isInterval(parameter) || (isInterval(parameter) && !sameTime)) continue;
    const now = selected(view, old);
    if (now === undefined || (!chosen.has(old) && JSON.stringify(now) === JSON.stringify(old.value))) continue;
    if (parameter.bind?.options && !parameter.bind.options.includes(now)) continue;
    parameter.value = now;
    chosen.add(parameter);
  }
};
