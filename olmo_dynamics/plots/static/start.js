"use strict";
const read = (id) => JSON.parse(document.getElementById(id).textContent);
const columns = read("columns").map((column) => (column.of ? column.at.map((place) => column.of[place]) : column));
const rowsOf = (table) => {
  const named = Object.entries(table.columns);
  return Array.from({ length: table.rows }, (_, row) => Object.fromEntries(named.map(([name, column]) => [name, columns[column][row]])));
};
const draw = (place, index) => {
  const spec = read(`spec-${index}`);
  const tables = Object.entries(spec.datasets ?? {});
  const many = tables.some(([, table]) => table.rows > 5000); // as SVG, every mark would be an element of the page
  spec.datasets = Object.fromEntries(tables.map(([name, table]) => [name, rowsOf(table)]));
  const options = { mode: "vega-lite", renderer: many ? "canvas" : "svg", ast: true, ...spec.usermeta?.embedOptions };
  return vegaEmbed(place, spec, options).catch((reason) => {
    place.textContent = `This picture could not be drawn: ${reason.message}`;
    throw reason;
  });
};
// One after another, with a pause for the reader's scrolling between them.
let last = Promise.resolve();
window.charts = Array.from(document.querySelectorAll("div.chart"), (place, index) => {
  const begin = () => new Promise((next) => setTimeout(next)).then(() => draw(place, index));
  return (last = last.then(begin, begin));
});
