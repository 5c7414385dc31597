// Makes every chart interactive; without JavaScript the picture beside it stays.
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

  const embed = async (panel) => {
    const spec = JSON.parse(panel.querySelector("script").textContent);
    spec.autosize = { type: "fit-x", contains: "padding" };
    const chart = panel.querySelector(".chart");
    chart.style.minWidth = `${spec.usermeta?.minWidth ?? 0}px`;
    panel.classList.add("interactive"); // shown first: what is hidden has no width to fill
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
})();
