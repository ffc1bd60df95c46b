// A saved picture bears the heading of its figure and the title of the page, which stand beside it on the page.
const MARGIN = 12;
const HEADING = { size: 15, weight: 600, color: "#1b1e23" };
const ORIGIN = { size: 12, weight: 400, color: "#5b6470" };
const FACE = "Helvetica Neue, Helvetica, Arial, Liberation Sans, DejaVu Sans, sans-serif";
const measure = document.createElement("canvas").getContext("2d");
const fontOf = ({ weight, size }) => `${weight} ${size}px ${FACE}`;

// The lines of some words, none wider than the picture, with the height at which each stands.
const wrapped = (words, width) => {
  const lines = [];
  let y = MARGIN / 2;
  for (const [text, look] of words) {
    measure.font = fontOf(look);
    let line = "";
    const end = () => {
      if (line) lines.push({ text: line, look, y: (y += look.size * 1.3) });
      line = "";
    };
    for (const word of text.split(/\s+/)) {
      if (line && measure.measureText(`${line} ${word}`).width > width - 2 * MARGIN) end();
      line = line ? `${line} ${word}` : word;
    }
    end();
  }
  return { lines, height: Math.ceil(y + MARGIN / 2) };
};

const titledSvg = (svg, words) => {
  const picture = new DOMParser().parseFromString(svg, "image/svg+xml");
  const root = picture.documentElement;
  const [left, top, width, tall] = root.getAttribute("viewBox").split(/[ ,]+/).map(Number);
  const { lines, height } = wrapped(words, width);
  root.setAttribute("viewBox", [left, top - height, width, tall + height].join(" "));
  root.setAttribute("height", (Number(root.getAttribute("height")) * (tall + height)) / tall);
  const add = (name, attributes, text = "") => {
    const made = picture.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.textContent = text;
    return made;
  };
  root.prepend(add("rect", { x: left, y: top - height, width, height: height + 1, fill: "white" }));
  for (const { text, look, y } of lines) root.append(add("text", { x: left + MARGIN, y: top - height + y, "font-family": FACE, "font-size": `${look.size}px`, "font-weight": look.weight, fill: look.color }, text));
  return new XMLSerializer().serializeToString(picture);
};

const titledCanvas = (drawn, words, scale) => {
  const { lines, height } = wrapped(words, drawn.width / scale);
  const canvas = document.createElement("canvas");
  canvas.width = drawn.width;
  canvas.height = drawn.height + Math.round(height * scale);
  const pen = canvas.getContext("2d");
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.drawImage(drawn, 0, canvas.height - drawn.height);
  pen.scale(scale, scale);
  for (const { text, look, y } of lines) {
    pen.font = fontOf(look);
    pen.fillStyle = look.color;
    pen.fillText(text, MARGIN, y);
  }
  return canvas;
};

const saveWithTitle = (view, heading) => {
  const words = [[heading, HEADING], [document.title, ORIGIN]];
  view.toImageURL = async (kind, scale = 1) => {
    if (kind !== "svg") return titledCanvas(await view.toCanvas(scale), words, scale).toDataURL("image/png");
    return URL.createObjectURL(new Blob([titledSvg(await view.toSVG(scale), words)], { type: "image/svg+xml" }));
  };
};
