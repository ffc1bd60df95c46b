(() => {
  "use strict";
  const charts = (window.olmoDynamicsCharts ??= { waiting: [] });
  const place = document.getElementById("$place");
  const spec = $spec;
  const options = { mode: "vega-lite", renderer: "svg", ast: true, ...spec.usermeta?.embedOptions, ...$options };
  const draw = () => {
    const drawn = document.createElement("div");
    place.append(drawn);
    charts.embed(drawn, spec, options).then(
      () => place.querySelector("img").remove(),
      (reason) => (drawn.textContent = `This picture does not react: $${reason.message}`),
    );
  };
  charts.embed ? draw() : charts.waiting.push(draw);
})();
