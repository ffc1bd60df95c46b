// Charts take the width that their place has: first by an estimate, then by what was drawn.
const AXIS = 80; // pixels beside a panel for its axis, and for a legend
const LEGEND = 110;
const NARROW = 150; // the least width of a panel
const LOW = 200; // pictures that are higher than this grow with their width, to a height of at most
const TALL = 480;
const FLAT = 2.6; // so that they are not more than so many times as wide as high
const HIGHER = 1.6; // the most that a panel grows
const LARGER = 2.2; // the most that a square map grows, to a side of at most TALL
const WIDER = 4; // the most that a picture over experts, heads or features widens
const OWN = 48; // pixels beside a panel that has axes of its own
const size = (spec) => (typeof spec.width === "number" ? spec.width : (spec.layer ?? []).map(size).find(finite));
const discrete = (spec) => [...units(spec)].some(({ unit }) => ["ordinal", "nominal"].includes(unit.encoding?.x?.type));
const square = (spec) => finite(spec.width) && spec.width === spec.height && discrete(spec);
const words = (spec) => spec.mark?.type === "text"; // the reason why there is no chart
const fixed = (spec) => square(spec) || discrete(spec) || words(spec);

const legendBeside = (spec) => [...units(spec)].some(({ unit }) => {
  const color = [unit.encoding?.color, unit.encoding?.color?.condition].flat().filter((each) => each?.field);
  return color.some((each) => each.legend !== null && (each.legend?.orient ?? "right") === "right");
});

const legendAtRight = (spec) => [...units(spec)].some(({ unit }) => unit.encoding?.color?.legend?.orient === "right");

const widen = (spec, width) => {
  const most = Math.max(NARROW, Math.round(width));
  if (square(spec)) spec.width = spec.height = Math.min(Math.max(80, Math.round(width)), Math.max(spec.width, Math.min(TALL, Math.round(LARGER * spec.width))));
  else if (discrete(spec) && finite(spec.width)) {
    const wider = Math.min(most, WIDER * spec.width);
    if (spec.height < LOW) spec.height = Math.round(spec.height * Math.min(HIGHER, Math.max(1, wider / spec.width)));
    spec.width = wider;
  } else if (!words(spec) && finite(spec.width)) spec.width = most;
  for (const { unit } of units(spec)) {
    for (const color of [unit.encoding?.color, unit.encoding?.color?.condition].flat()) {
      if (color?.legend?.gradientLength > width && (color.legend.orient ?? "right") !== "right") color.legend.gradientLength = Math.max(80, Math.round(width));
    }
  }
};

const fit = (spec, width, beside = legendBeside(spec)) => {
  if (spec.usermeta?.oneScale) {
    const larger = Math.min(HIGHER, (width - AXIS - (beside ? LEGEND : 0)) / spec.width);
    Object.assign(spec, { width: Math.round(larger * spec.width), height: Math.round(larger * spec.height) });
  } else if (spec.facet?.field) {
    const count = spec.facet.sort?.length || 1;
    const gap = (spec.spacing?.column ?? 20) + (spec.resolve?.axis?.y === "independent" && spec.bounds !== "flush" ? OWN : 0);
    const free = width - AXIS - (legendAtRight(spec) ? LEGEND + 40 : 0);
    const own = size(spec.spec) ?? NARROW;
    const least = square(spec.spec) ? 0.75 * own : Math.max(NARROW, discrete(spec.spec) ? 0.75 * own : own);
    const most = Math.max(1, Math.min(count, Math.floor((free + gap) / (least + gap))));
    const across = Math.ceil(count / Math.ceil(count / most)); // rows of equal length
    spec.columns = across;
    widen(spec.spec, (free - gap * (across - 1)) / across);
    if (finite(spec.spec.height) && !fixed(spec.spec)) spec.spec.height = Math.round(Math.max(spec.spec.height, Math.min(HIGHER * spec.spec.height, size(spec.spec) / FLAT)));
  } else if (spec.facet) {
    const across = spec.facet.column?.sort?.length || 1;
    widen(spec.spec, (width - AXIS - LEGEND) / across - 26);
  } else if (spec.concat ?? spec.hconcat) {
    const parts = spec.concat ?? spec.hconcat;
    const gap = finite(spec.spacing) ? spec.spacing : 40;
    const most = Math.min(parts.length, spec.columns ?? parts.length);
    const across = spec.concat ? Math.max(1, Math.min(most, Math.floor((width + gap) / (NARROW + AXIS + gap)))) : most;
    if (spec.concat) spec.columns = across;
    const one = across === 1 ? parts.some(legendBeside) : undefined; // parts below each other have one width
    for (const part of parts) fit(part, (width - gap * (across - 1)) / across, one);
  } else if (spec.vconcat) {
    const one = spec.vconcat.some(legendBeside);
    for (const part of spec.vconcat) fit(part, width, one);
  } else {
    widen(spec, width - AXIS - (beside ? LEGEND + (discrete(spec) ? 60 : 0) : 0)); // a map's legend has a long title
  }
};

// Wide pictures grow higher, all parts of one alike.
const raise = (spec) => {
  const parts = spec.concat ?? spec.hconcat ?? (spec.layer || spec.mark ? [spec] : []);
  const [height] = parts.map((part) => part.height);
  if (spec.usermeta?.oneScale || !(height > LOW) || parts.some((part) => part.height !== height || fixed(part))) return;
  const raised = Math.min(TALL, Math.round(Math.min(...parts.map(size)) / FLAT));
  for (const part of parts) part.height = Math.max(height, raised);
};

// The signals that hold widths of panels; setting them moves everything that depends on them.
const WIDTHS = /(?:^|_)(?:width|childWidth|child_width)$/;
const columnsOf = (spec) => (spec.facet || spec.concat ? spec.columns ?? 1 : spec.hconcat?.length ?? 1);

const settle = async (view, place, spec, width) => {
  const drawn = place.querySelector("svg, canvas");
  const parts = spec.facet ? [spec.spec] : [spec.concat ?? spec.hconcat ?? spec.vconcat ?? [spec]].flat();
  const fixedParts = spec.usermeta?.oneScale || parts.some((part) => fixed(part) || !(finite(size(part)) || part.facet || part.hconcat || part.concat));
  place.style.zoom = "";
  const beyond = drawn.getBoundingClientRect().width - width;
  if (fixedParts && beyond > 4) place.style.zoom = width / (width + beyond); // whole, if a little smaller
  if (fixedParts || Math.abs(beyond) < 4) return;
  const signals = Object.entries(view.getState({ signals: (name) => WIDTHS.test(name), data: () => false }).signals ?? {});
  const panels = signals.filter(([name, value]) => finite(value) && value > 0 && (name !== "width" || signals.length === 1));
  for (const [name, value] of panels) view.signal(name, Math.max(80, value - beyond / columnsOf(spec)));
  await view.resize().runAsync(); // the picture itself takes the new size
};
