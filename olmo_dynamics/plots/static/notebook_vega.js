const charts = (window.olmoDynamicsCharts ??= { waiting: [] });
charts.embed ??= vegaEmbed;
charts.waiting.splice(0).forEach((draw) => draw());
