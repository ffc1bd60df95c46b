"use strict";
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const written = read("columns");
const opened = new Map(); // columns are turned into values when the first chart needs them
const column = (number) => {
  if (!opened.has(number)) {
    const held = written[number];
    opened.set(number, held.of ? written[held.at].map((place) => held.of[place]) : held);
  }
  return opened.get(number);
};
const rowsOf = (table) => {
  const named = Object.entries(table.columns).map(([name, number]) => [name, column(number)]);
  return Array.from({ length: table.rows }, (_, row) => Object.fromEntries(named.map(([name, values]) => [name, values[row]])));
};

// Every unit of a spec (a part with a mark), with its data, the fields that split it into panels, and its view.
function* units(spec, panels = [], data = undefined, view = { y: [] }) {
  const own = spec.data ?? data;
  if (spec.mark) yield { unit: spec, panels, rows: own?.name, view };
  for (const part of spec.layer ?? []) yield* units(part, panels, own, view);
  for (const part of [...(spec.concat ?? []), ...(spec.hconcat ?? []), ...(spec.vconcat ?? [])]) yield* units(part, panels, own, { y: [] });
  const split = spec.facet ? (spec.facet.field ? [spec.facet.field] : Object.values(spec.facet).map((each) => each.field)) : [];
  if (spec.spec) yield* units(spec.spec, [...panels, ...split], own, view);
}
