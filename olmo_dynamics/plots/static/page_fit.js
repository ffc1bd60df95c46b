// Charts take the width that their place has: first by an estimate, then by what was drawn.
const AXIS = 80; // pixels beside a panel for its axis, and for a legend
const LEGEND = 110;
const NARROW = 150; // the least width of a panel
const size = (spec) => (typeof spec.width === "number" ? spec.width : (spec.layer ?? []).map(size).find(finite));
const discrete = (spec) => [...units(spec)].some(({ unit }) => ["ordinal", "nominal"].includes(unit.encoding?.x?.type));
const square = (spec) => finite(spec.width) && spec.width === spec.height;
const words = (spec) => spec.mark?.type === "text"; // the reason why there is no chart
const fixed = (spec) => square(spec) || discrete(spec) || words(spec);

const legendBeside = (spec) => [...units(spec)].some(({ unit }) => {
  const color = [unit.encoding?.color, unit.encoding?.color?.condition].flat().filter((each) => each?.field);
  return color.some((each) => each.legend !== null && (each.legend?.orient ?? "right") === "right");
});

const widen = (spec, width) => {
  if (!fixed(spec) && finite(spec.width)) spec.width = Math.max(NARROW, Math.round(width));
  for (const { unit } of units(spec)) {
    for (const color of [unit.encoding?.color, unit.encoding?.color?.condition].flat()) {
      if (color?.legend?.gradientLength > width && (color.legend.orient ?? "right") !== "right") color.legend.gradientLength = Math.max(80, Math.round(width));
    }
  }
};

const fit = (spec, width) => {
  if (spec.facet?.field) {
    const count = spec.facet.sort?.length || 1;
    const gap = spec.spacing?.column ?? 20;
    const least = Math.max(NARROW, size(spec.spec) ?? NARROW);
    const across = Math.max(1, Math.min(count, Math.floor((width - AXIS + gap) / (least + gap))));
    spec.columns = across;
    widen(spec.spec, (width - AXIS - gap * (across - 1)) / across);
  } else if (spec.facet) {
    const across = spec.facet.column?.sort?.length || 1;
    widen(spec.spec, (width - AXIS - LEGEND) / across - 26);
  } else if (spec.concat ?? spec.hconcat) {
    const parts = spec.concat ?? spec.hconcat;
    const gap = finite(spec.spacing) ? spec.spacing : 40;
    const most = Math.min(parts.length, spec.columns ?? parts.length);
    const across = spec.concat ? Math.max(1, Math.min(most, Math.floor((width + gap) / (NARROW + AXIS + gap)))) : most;
    if (spec.concat) spec.columns = across;
    for (const part of parts) fit(part, (width - gap * (across - 1)) / across);
  } else if (spec.vconcat) {
    for (const part of spec.vconcat) fit(part, width);
  } else {
    widen(spec, width - AXIS - (legendBeside(spec) ? LEGEND : 0));
  }
};

// The signals that hold widths of panels; setting them moves everything that depends on them.
const WIDTHS = /(?:^|_)(?:width|childWidth|child_width)$/;
const columnsOf = (spec) => (spec.facet || spec.concat ? spec.columns ?? 1 : spec.hconcat?.length ?? 1);

const settle = async (view, place, spec, width) => {
  const drawn = place.querySelector("svg, canvas");
  const fixedParts = spec.facet ? fixed(spec.spec) : [spec.concat ?? spec.hconcat ?? spec.vconcat ?? [spec]].flat().some(fixed);
  const beyond = drawn.getBoundingClientRect().width - width;
  if (fixedParts || Math.abs(beyond) < 4) return;
  const signals = Object.entries(view.getState({ signals: (name) => WIDTHS.test(name), data: () => false }).signals ?? {});
  const panels = signals.filter(([name, value]) => finite(value) && value > 0 && (name !== "width" || signals.length === 1));
  for (const [name, value] of panels) view.signal(name, Math.max(80, value - beyond / columnsOf(spec)));
  await view.runAsync();
  await view.resize().runAsync(); // the picture itself takes the new size
};
