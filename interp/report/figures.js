(async () => {
  const packed = Uint8Array.from(atob(document.getElementById("plotly").textContent), c => c.charCodeAt(0));
  const script = document.createElement("script");
  script.textContent = await new Response(
    new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  document.head.append(script);

  const boxes = [...document.querySelectorAll(".plot")], drawn = new Set();
  const config = {responsive: true, displaylogo: false, modeBarButtons: [["toImage"]], toImageButtonOptions: {format: "svg"}};

  function draw(box) {
    const {data, layout} = JSON.parse(box.nextElementSibling.textContent);
    const style = getComputedStyle(document.documentElement), colour = name => style.getPropertyValue(name);
    const ink = colour("--ink"), axis = {gridcolor: colour("--line"), zerolinecolor: colour("--grey"), linecolor: colour("--line")};
    layout.template = {layout: {
      paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: {color: ink, family: "system-ui, sans-serif"},
      xaxis: axis, yaxis: axis, hoverlabel: {bgcolor: colour("--paper"), font: {color: ink}, align: "left"}}};
    for (const trace of data) if (trace.textfont) trace.textfont.color = ink;
    Plotly.react(box, data, layout, config);
    if (drawn.has(box)) return;
    drawn.add(box);
    box.on("plotly_click", ({points}) => {
      const site = [].concat(points[0].customdata)[0];
      if (document.getElementById(site)) location.hash = site;
    });
  }

  const shown = box => !drawn.has(box) && !box.closest("details:not([open])");
  document.addEventListener("toggle", () => boxes.filter(shown).forEach(draw), true);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawn.forEach(draw));

  const fit = width => boxes.forEach(box => {
    if (!drawn.has(box)) draw(box);
    Plotly.relayout(box, {width: width && Math.min(width, box.clientWidth || width), autosize: width === null});
  });
  addEventListener("beforeprint", () => fit(680));
  addEventListener("afterprint", () => fit(null));

  for (const box of boxes) {
    await new Promise(next => setTimeout(next));
    if (shown(box)) draw(box);
  }
})();
