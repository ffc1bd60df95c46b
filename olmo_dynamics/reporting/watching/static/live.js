const SECONDS = 2;
const titles = { line: "stage", x: "axis" };
const at = (id) => document.getElementById(id);
let version = "";
let latest = "";
let choice = {};
let busy = false;
let again = false;
let shown; // the spec of the picture, and its time axis
let pressed = false; // a brush is being drawn

const control = (menu) => {
  const label = document.createElement("label");
  const select = document.createElement("select");
  select.name = menu.name;
  select.append(...menu.options.map((text) => new Option(text, text, false, text === menu.value)));
  select.addEventListener("change", () => {
    choice = { ...choice, [menu.name]: select.value };
    version = "";
    read();
  });
  label.append(titles[menu.name] ?? menu.name, select);
  return label;
};

const tell = (text, failed = false) => {
  at("told").textContent = text;
  at("told").classList.toggle("failed", failed);
};

const draw = async (state) => {
  choice = Object.fromEntries(state.menus.map((menu) => [menu.name, menu.value]));
  const focused = document.activeElement?.name;
  at("menus").replaceChildren(...state.menus.map(control));
  at("menus").elements[focused]?.focus();
  at("code").textContent = state.code;
  const options = { mode: "vega-lite", renderer: "svg", ast: true, ...state.spec.usermeta?.embedOptions };
  const time = ["x", "line", "run"].map((name) => choice[name]).join();
  if (shown) keepSelections(window.drawn.view, shown.spec, state.spec, shown.time === time);
  window.drawn?.view.finalize();
  window.drawn = await vegaEmbed(at("chart"), state.spec, options);
  nameParts(at("chart"));
  shown = { spec: { ...state.spec, datasets: undefined }, time };
};

const read = async () => {
  if (busy) {
    again = true;
    return;
  }
  busy = true;
  try {
    const since = at("follow").checked || version === "" ? version : latest;
    const fields = new URLSearchParams({ ...choice, since });
    const answer = await fetch(`state?${fields}`, { cache: "no-store" });
    if (!answer.ok) throw new Error(await answer.text());
    const state = await answer.json();
    tell(state.told, !state.version && !state.told.startsWith("waiting"));
    latest = state.version;
    if (state.spec && !pressed && (at("follow").checked || version === "")) {
      await draw(state);
      version = state.version;
    }
  } catch (reason) {
    tell(`The server does not answer: ${reason.message}`, true);
  }
  busy = false;
  if (again) {
    again = false;
    read();
  }
};

at("chart").addEventListener("pointerdown", () => (pressed = true));
for (const end of ["pointerup", "pointercancel", "blur"]) addEventListener(end, () => (pressed = false));
at("menus").addEventListener("submit", (event) => event.preventDefault());
at("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(at("code").textContent);
    at("copy").textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(at("code"));
    at("copy").textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => (at("copy").textContent = "Copy the code"), 2000);
});
setInterval(read, 1000 * SECONDS);
read();
