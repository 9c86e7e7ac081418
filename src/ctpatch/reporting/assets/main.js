/** Charts of the section "How values are spread", and of the sets beside each other. */
class Charts {
  constructor(content, numbers, rules) {
    this.rules = rules;
    this.sets = content.sets;
    this.compared = content.compared;
    const place = document.getElementById("charts");
    this.columns = [...rules.columns.values()].filter((column) => content.statistics.includes(column.name));
    this.histograms = this.columns.map((column) => {
      const { figure, place: plot, said } = chartFigure(`${column.title} (${column.name})`, "");
      place.append(figure);
      return new Histogram(plot, { height: 180, edges: column.edges, ends: [column.begin, column.end], say: said, thresholds: () => this.#thresholds(column.name) });
    });
    this.#makePixels(content.gallery.pixels, numbers, place);
    this.#makeSetCharts();
  }

  #thresholds(name) {
    const { sliders, on } = this.rules;
    return sliders.flatMap((slider, k) => (slider.column === name && on[slider.rule] ? [this.rules.valueOf(k)] : []));
  }

  #makePixels(pixels, numbers, place) {
    this.pixelRows = numbers(pixels.rows);
    this.pixelCounts = numbers(pixels.counts);
    if (!this.pixelRows.length) return;
    const edges = Array.from({ length: pixels.bars + 1 }, (_, k) => pixels.low + ((pixels.high - pixels.low) * k) / pixels.bars);
    const { figure, place: plot, said } = chartFigure("Pixels of the slices shown", "");
    place.append(figure);
    this.pixels = new Histogram(plot, { height: 180, edges, say: said });
    this.pixels.unit = "pixels";
    this.pixels.tick = (value) => (value >= 1e6 ? `${shown(value / 1e6)}M` : value >= 1e4 ? `${shown(value / 1e3)}k` : shown(value));
  }

  #makeSetCharts() {
    this.setCharts = [];
    const place = document.getElementById("set-charts");
    if (!place) return;
    const names = this.sets.map((each) => each.name);
    document.getElementById("set-key").append(...names.flatMap((name, k) => [element("span", { className: `key set-${k % COLOURS}` }), document.createTextNode(name)]));
    this.setCharts = this.columns.filter((column) => this.compared.includes(column.name)).map((column) => {
      const { figure, place: plot, said } = chartFigure(`${column.title} (${column.name})`, "");
      place.append(figure);
      const chart = new SetChart(plot, { height: 180, edges: column.edges, ends: [column.begin, column.end], say: said, names });
      chart.column = column;
      return chart;
    });
  }

  draw() {
    const enlarged = document.getElementById("log-counts").checked;
    for (const chart of [...this.histograms, this.pixels, ...this.setCharts]) {
      if (!chart) continue;
      chart.enlarged = enlarged && chart instanceof Histogram;
      chart.draw();
    }
  }

  refresh(bars) {
    this.histograms.forEach((chart, k) => chart.set(bars.get(this.columns[k].name)));
    for (const chart of this.setCharts) chart.set(this.sets.map(({ start, count }) => this.rules.bars(chart.column, start, count).kept));
    if (this.pixels) this.pixels.set(this.#pixelBars());
  }

  #pixelBars() {
    const bars = this.pixels.edges.length - 1;
    const all = new Array(bars).fill(0);
    const kept = new Array(bars).fill(0);
    this.pixelRows.forEach((row, at) => {
      const keeps = this.rules.decisions[row] === 0;
      for (let bar = 0; bar < bars; bar += 1) {
        const count = this.pixelCounts[at * bars + bar];
        all[bar] += count;
        if (keeps) kept[bar] += count;
      }
    });
    return { all, kept };
  }
}

/** Put the page together, then follow the sliders, once for each picture the screen shows. */
async function start() {
  const { content, numbers } = await loadData();
  const rules = new Rules(content, numbers);
  const display = new DisplayWindow(content.gallery.tones, content.gallery.displayWindows);
  const viewer = new SliceViewer(content.gallery, numbers, rules, content.statistics, display);
  const sheets = new PatchSheets(content, rules, display);
  const charts = new Charts(content, numbers, rules);
  let waiting = false;
  const refresh = () => {
    waiting = false;
    rules.decide();
    const bars = new Map([...rules.columns.values()].map((column) => [column.name, rules.bars(column)]));
    charts.refresh(bars);
    panel?.refresh(bars);
    if (viewer.slices.length) viewer.follow();
    sheets.refresh();
  };
  const changed = () => {
    if (!waiting) requestAnimationFrame(refresh);
    waiting = true;
  };
  const draw = () => {
    charts.draw();
    panel?.drawCharts();
    refresh();
  };
  if (content.gallery.slices.length) await viewer.start();
  await sheets.start();
  // Until here the page shows what it was written with; charts need their places to be laid out.
  const panel = content.tunable ? new TunePanel(content, rules, changed) : null;
  document.documentElement.dataset.ready = "";
  document.getElementById("still")?.remove();
  draw();
  document.getElementById("log-counts").addEventListener("change", draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  addEventListener("beforeprint", () => {
    document.documentElement.dataset.print = "";
    draw();
  });
  addEventListener("afterprint", () => {
    delete document.documentElement.dataset.print;
    draw();
  });
}

start().catch((error) => {
  const trouble = document.getElementById("trouble");
  trouble.hidden = false;
  trouble.textContent = `The pictures and sliders cannot be shown (${error.message}); they need a browser of 2023 or later.`;
});
