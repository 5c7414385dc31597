// Makes every chart interactive; without JavaScript the picture next to it stays.
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const views = (window.picolabViews = []);

  const pageColours = () => {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const ink = colour("--ink");
    const soft = colour("--soft");
    const line = colour("--line");
    const words = { labelColor: soft, titleColor: ink };
    return {
      background: "transparent",
      title: { color: ink },
      axis: { ...words, gridColor: line, domainColor: soft, tickColor: soft },
      legend: words,
    };
  };

  const pen = document.createElement("canvas").getContext("2d");

  // Break a title into lines that fit: Vega would let it run out of the panel.
  const titleLines = (title, config, width) => {
    pen.font = `${config.title.fontWeight} ${config.title.fontSize}px ${config.font}`;
    const whole = [title.text ?? title].flat().reduce((text, line) => text + (text.endsWith("-") ? "" : " ") + line);
    const lines = [""];
    for (const piece of whole.match(/[^\s._-]{1,24}[\s._-]*|[\s._-]+/g) ?? []) {
      const longer = lines.at(-1) + piece;
      if (lines.at(-1) && pen.measureText(longer.trimEnd()).width > width) lines.push(piece);
      else lines[lines.length - 1] = longer;
    }
    return lines.map((line) => line.trimEnd());
  };

  const embed = async (panel) => {
    const spec = JSON.parse(panel.querySelector("script").textContent);
    spec.autosize = { type: "fit-x", contains: "padding" };
    const chart = panel.querySelector(".chart");
    chart.style.minWidth = `${spec.usermeta?.minWidth ?? 0}px`;
    panel.classList.add("interactive"); // shown first: a hidden chart has no width to fill
    if (spec.title) spec.title = { text: titleLines(spec.title, spec.config, panel.clientWidth - 10) };
    const result = await vegaEmbed(chart, spec, {
      mode: "vega-lite",
      renderer: "svg",
      actions: false,
      ast: true, // no eval: the page's security policy forbids it
      config: pageColours(),
      tooltip: { theme: dark.matches ? "dark" : "light" },
    });
    return result;
  };

  const embedAll = async () => {
    for (const { finalize } of views.splice(0)) finalize();
    for (const panel of document.querySelectorAll(".panel")) {
      try {
        views.push(await embed(panel));
      } catch (error) {
        panel.classList.remove("interactive");
        throw error;
      }
    }
    document.documentElement.dataset.charts = String(views.length);
  };

  if (window.matchMedia("(max-width: 70rem)").matches) document.querySelector("nav details").open = false;
  embedAll();
  dark.addEventListener("change", embedAll);
  window.matchMedia("(orientation: portrait)").addEventListener("change", embedAll); // titles have other lines then
})();
