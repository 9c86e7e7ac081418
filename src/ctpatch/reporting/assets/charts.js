const BARS = uPlot.paths.bars({ size: [1, Infinity], align: 1, gap: 1 });
const STEPS = uPlot.paths.stepped({ align: 1 });
const CHART_FONT = "12px system-ui, sans-serif";

/** The bar the pointer is over: it begins at or left of it. */
function barUnder(plot, series, at, value) {
  return Math.max(plot.data[0][at] > value ? at - 1 : at, 0);
}

/** What all charts share: colours of the page, no legend of its own, as wide as its place. */
class Chart {
  constructor(place, { height, small = false, edges, ends = [edges[0], edges.at(-1)], say = null }) {
    this.place = place;
    this.height = height;
    this.small = small;
    this.edges = edges;
    this.ends = ends;
    this.say = say;
    this.enlarged = false;
    new ResizeObserver(() => this.#resize()).observe(place);
  }

  /** Draw for the first time, or again in other colours. */
  draw() {
    this.plot?.destroy();
    const axis = { stroke: colour("--faint"), grid: { stroke: colour("--line"), width: 1 }, ticks: { show: false }, font: CHART_FONT };
    this.plot = new uPlot(
      {
        width: Math.max(this.place.clientWidth, 50),
        height: this.height,
        legend: { show: false },
        padding: this.small ? [2, 0, 0, 0] : [8, 10, 0, 0],
        cursor: { dataIdx: barUnder, show: !this.small, x: !this.small, y: false, points: { show: false }, drag: { x: false, y: false } },
        scales: {
          x: { time: false, range: this.ends },
          y: { range: (_, __, most) => [0, most > 0 ? most * (this.enlarged ? 1.3 : 1.05) : 1], ...(this.enlarged ? { distr: 4 } : {}) },
        },
        axes: [
          { ...axis, show: !this.small, size: 26, grid: { show: false }, space: 60 },
          { ...axis, show: !this.small, size: 52, space: 34, values: (_, ticks) => ticks.map((tick) => this.tick(tick)) },
        ],
        series: [{}, ...this.series()],
        hooks: {
          draw: [(plot) => this.marks?.(plot)],
          setCursor: [(plot) => this.#tell(plot.cursor.idxs?.[1])],
        },
      },
      this.values(),
      this.place,
    );
    this.plot.root.setAttribute("aria-hidden", "true");
  }

  update() {
    this.plot?.setData(this.values());
  }

  tick(value) {
    return value >= 1e4 ? `${shown(value / 1e3)}k` : shown(value);
  }

  #tell(at) {
    if (!this.say || this.small) return;
    this.say.textContent = at == null || at >= this.edges.length - 1 ? this.summary() : `${shown(this.edges[at])} to ${shown(this.edges[at + 1])}: ${this.reading(at)}`;
  }

  #resize() {
    if (this.plot && this.place.clientWidth > 50) this.plot.setSize({ width: this.place.clientWidth, height: this.height });
  }
}

/** Windows by a statistic: all of them behind, the kept ones in front, thresholds across. */
class Histogram extends Chart {
  constructor(place, options) {
    super(place, options);
    this.counts = { all: [], kept: [] };
    this.thresholds = options.thresholds ?? (() => []);
  }

  series() {
    return [
      { paths: BARS, fill: colour("--dropped"), stroke: colour("--dropped"), width: 0, points: { show: false } },
      { paths: BARS, fill: colour("--kept"), stroke: colour("--kept"), width: 0, points: { show: false } },
    ];
  }

  values() {
    const { all, kept } = this.counts;
    return [this.edges, [...all, null], [...kept, null]];
  }

  set(counts) {
    this.counts = counts;
    this.update();
    if (this.say) this.say.textContent = this.summary();
  }

  summary() {
    const sum = (values) => wholeNumber.format(values.reduce((total, value) => total + value, 0));
    return `${sum(this.counts.kept)} of ${sum(this.counts.all)} ${this.unit ?? "windows"} kept`;
  }

  reading(at) {
    const kept = this.counts.kept[at];
    return `${wholeNumber.format(kept)} kept, ${wholeNumber.format(this.counts.all[at] - kept)} dropped`;
  }

  marks(plot) {
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.lineWidth = 2 * devicePixelRatio;
    ctx.strokeStyle = colour("--text");
    ctx.setLineDash([5 * devicePixelRatio, 3 * devicePixelRatio]);
    for (const value of this.thresholds()) {
      const x = Math.min(Math.max(plot.valToPos(value, "x", true), bbox.left + 1), bbox.left + bbox.width - 1);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    }
    ctx.restore();
  }
}

/** Few windows make ragged steps: so many bars are joined where the smallest set has fewer windows than this. */
const JOINED_BELOW = [[1000, 4], [10000, 2]];

/** The kept windows of each set by a statistic, as shares. */
class SetChart extends Chart {
  constructor(place, options) {
    super(place, options);
    this.names = options.names;
    this.shares = options.names.map(() => []);
  }

  series() {
    const dashes = [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 5], [1, 4]];
    return this.names.map((_, k) => ({
      paths: STEPS,
      stroke: colour(`--set-${k % COLOURS}`),
      width: 2,
      dash: dashes[k % COLOURS],
      points: { show: false },
    }));
  }

  values() {
    return [this.edges, ...this.shares.map((share) => [...share, share.at(-1) ?? null])];
  }

  set(kept) {
    const totals = kept.map((counts) => counts.reduce((sum, count) => sum + count, 0));
    const joined = JOINED_BELOW.find(([below]) => Math.min(...totals) < below)?.[1] ?? 1;
    this.shares = kept.map((counts, k) => {
      const wide = Array.from(counts, (_, at) => counts.slice(at - (at % joined), at - (at % joined) + joined));
      return wide.map((some) => (100 * some.reduce((sum, count) => sum + count, 0)) / (totals[k] || 1));
    });
    this.update();
  }

  tick(value) {
    return `${shown(value)} %`;
  }

  summary() {
    return "share of each set's kept windows";
  }

  reading(at) {
    return this.names.map((name, k) => `${name} ${shown(this.shares[k][at] ?? 0)} %`).join(", ");
  }
}

/** A figure with a title, a chart and a line that says what the pointer rests on. */
function chartFigure(title, note) {
  const place = element("div", { className: "plot" });
  const said = element("p", { className: "said", text: note });
  const figure = element("figure", { className: "chart", role: "group", "aria-label": title }, [element("h3", { text: title }), place, said]);
  return { figure, place, said };
}
