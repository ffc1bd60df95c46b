"use strict";
window.charts = Array.from(document.querySelectorAll("div.chart"), (place, index) => {
  const spec = JSON.parse(document.getElementById(`spec-${index}`).textContent);
  const options = { mode: "vega-lite", renderer: "svg", ast: true, ...spec.usermeta?.embedOptions };
  return vegaEmbed(place, spec, options).catch((reason) => {
    place.textContent = `This picture could not be drawn: ${reason.message}`;
    throw reason;
  });
});
