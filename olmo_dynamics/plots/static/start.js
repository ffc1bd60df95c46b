const form = document.querySelector("form.settings");
const settingsOf = () => ({ time: form.time.value, scale: form.scale.value, values: form.values.value, smoothing: Number(form.smoothing.value) });
const asWritten = JSON.stringify(settingsOf());
const figures = Array.from(document.querySelectorAll("div.chart"), (place) => {
  const figure = { place, id: place.id.slice("chart-".length), seen: false, drawn: "", view: undefined, spec: undefined, time: "" };
  figure.first = new Promise((resolve, reject) => Object.assign(figure, { resolve, reject }));
  figure.first.catch(() => {});
  return figure;
});

const draw = async (figure) => {
  const { place } = figure;
  const width = Math.floor(place.parentElement.clientWidth - 14);
  const settings = settingsOf();
  const state = JSON.stringify([settings, width]);
  if (figure.drawn === state) return;
  figure.drawn = state;
  const spec = read(`spec-${figure.id}`);
  const tables = Object.entries(spec.datasets ?? {});
  const many = tables.some(([, table]) => table.rows > 1500); // as SVG, every mark would be an element of the page
  spec.datasets = Object.fromEntries(tables.map(([name, table]) => [name, rowsOf(table)]));
  if (JSON.stringify(settings) !== asWritten) applied(spec, spec.datasets, settings);
  if (figure.spec) keepSelections(figure.view, figure.spec, spec, figure.time === settings.time);
  fit(spec, width);
  raise(spec);
  const options = { mode: "vega-lite", renderer: many ? "canvas" : "svg", ast: true, ...spec.usermeta?.embedOptions };
  try {
    figure.view?.finalize();
    const made = await vegaEmbed(place, spec, options);
    Object.assign(figure, { view: made.view, spec: { ...spec, datasets: undefined }, time: settings.time });
    saveWithTitle(made.view, place.getAttribute("aria-label"));
    await settle(made.view, place, spec, width);
    nameParts(place);
    figure.resolve(made);
  } catch (reason) {
    place.textContent = `This picture could not be drawn: ${reason.message}`;
    figure.reject(reason);
    throw reason;
  }
};

// One after another, with a pause for the reader's scrolling between them.
let last = Promise.resolve();
const soon = (figure) => {
  const begin = () => new Promise((next) => setTimeout(next)).then(() => draw(figure));
  return (last = last.then(begin, begin));
};
const near = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const figure = figures.find((each) => each.place === target);
    figure.seen = isIntersecting;
    if (isIntersecting) soon(figure);
  }
}, { rootMargin: "600px" });
for (const figure of figures) near.observe(figure.place);

const again = () => {
  form.window.value = Number(form.smoothing.value) ? `over ${2 * form.smoothing.value + 1} revisions` : "none";
  for (const figure of figures) if (figure.seen) soon(figure);
};
let waiting;
const later = () => {
  clearTimeout(waiting);
  waiting = setTimeout(again, 150);
};
form.addEventListener("input", later);
form.addEventListener("reset", () => {
  for (const figure of figures) Object.assign(figure, { spec: undefined, drawn: "" }); // nothing stays selected
  setTimeout(again);
});
form.addEventListener("submit", (event) => event.preventDefault());
window.addEventListener("resize", later);
if (innerWidth < 960) document.querySelector("nav.contents details").open = false;
// For printing, and for whoever reads the page by a script.
window.charts = figures.map((figure) => figure.first);
window.drawAll = () => {
  for (const figure of figures) soon(figure);
  return last.then(() => Promise.all(window.charts)).then(() => undefined);
};
window.addEventListener("beforeprint", () => window.drawAll());
