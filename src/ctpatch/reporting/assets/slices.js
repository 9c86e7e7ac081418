const SHOWN_AS = { "most dropped": "one of those that lose most", "least dropped": "one of those that lose least", "by chance": "one by chance" };

/** More tiles than these are no longer told apart in a small picture. */
const MOST_SMALL_TILES = 400;

/** A slice with its windows. */
class ShownSlice {
  constructor(described, numbers) {
    Object.assign(this, described);
    this.rows = numbers(described.rows);
    this.cols = numbers(described.cols);
    this.tiles = numbers(described.tiles);
    this.statistics = numbers(described.statistics);
  }

  tileElements() {
    return Array.from({ length: this.count }, (_, i) => {
      const [top, left, height, width] = this.tiles.subarray(4 * i, 4 * i + 4);
      const gap = Math.min(3, width / 6, height / 6);
      const sides = { x: left + gap, y: top + gap, width: Math.max(width - 2 * gap, 0.5), height: Math.max(height - 2 * gap, 0.5) };
      return svgElement("rect", { ...sides, "data-window": i });
    });
  }

  /** The window nearest to the middle of the slice. */
  middle() {
    const away = (i) => Math.hypot(this.rows[i] + (this.patchSize[0] - this.shape[0]) / 2, this.cols[i] + (this.patchSize[1] - this.shape[1]) / 2);
    let best = 0;
    for (let i = 1; i < this.count; i += 1) if (away(i) < away(best)) best = i;
    return best;
  }

  viewBox() {
    return `0 0 ${this.shape[1]} ${this.shape[0]}`;
  }

  name() {
    return `${this.split} slice ${this.index}`;
  }

  /** How many kept windows hold each pixel, (H, W). */
  coverage(decisions) {
    const [height, width] = this.shape;
    const across = width + 1;
    const found = new Int32Array((height + 1) * across);
    for (let i = 0; i < this.count; i += 1) {
      if (decisions[this.start + i] !== 0) continue;
      const [top, left] = [this.rows[i], this.cols[i]];
      const [bottom, right] = [Math.min(top + this.patchSize[0], height), Math.min(left + this.patchSize[1], width)];
      found[top * across + left] += 1;
      found[top * across + right] -= 1;
      found[bottom * across + left] -= 1;
      found[bottom * across + right] += 1;
    }
    for (let row = 0; row < height; row += 1) {
      for (let col = 1; col < across; col += 1) found[row * across + col] += found[row * across + col - 1];
    }
    for (let at = across; at < found.length; at += 1) found[at] += found[at - across];
    return { counts: found, across };
  }
}

/** The slice on the stage, the small ones below it, and what the pointer or the keys rest on. */
class SliceViewer {
  constructor(gallery, numbers, rules, statistics, display) {
    this.slices = gallery.slices.map((each) => new ShownSlice(each, numbers));
    this.rules = rules;
    this.statistics = statistics;
    this.display = display;
    this.at = 0;
    this.window = 0;
    this.view = "windows";
    this.canvas = document.getElementById("stage");
    this.overlay = document.getElementById("overlay");
    this.overlay.setAttribute("tabindex", "0");
    this.facts = document.getElementById("window-facts");
    this.legend = document.getElementById("legend");
  }

  async start() {
    for (const slice of this.slices) slice.image = slice.picture ? await codesOf(slice.picture) : null;
    this.#makeThumbs();
    for (const choice of document.querySelectorAll("input[name=view]")) {
      choice.addEventListener("change", () => {
        this.view = choice.value;
        this.refresh();
      });
    }
    this.overlay.addEventListener("pointermove", (event) => this.#pointed(event));
    this.overlay.addEventListener("click", (event) => this.#pointed(event));
    this.overlay.addEventListener("keydown", (event) => this.#moved(event));
    this.display.listeners.push(() => {
      this.#paintThumbs();
      this.refresh();
    });
    const mixed = this.slices.map((slice) => (this.#dropped(slice) < slice.count ? this.#dropped(slice) / slice.count : 0));
    this.choose(mixed.indexOf(Math.max(...mixed)));
    this.#paintThumbs();
  }

  #dropped(slice) {
    let dropped = 0;
    for (let i = slice.start; i < slice.start + slice.count; i += 1) if (this.rules.decisions[i] !== 0) dropped += 1;
    return dropped;
  }

  #makeThumbs() {
    const place = document.getElementById("thumbs");
    for (const [k, slice] of this.slices.entries()) {
      slice.thumb = element("canvas", { "aria-hidden": "true" });
      const tiles = slice.count <= MOST_SMALL_TILES ? slice.tileElements() : [];
      slice.small = svgElement("svg", { viewBox: slice.viewBox(), "aria-hidden": "true" }, tiles);
      slice.said = element("span");
      const box = slice.image ? element("div", { className: "canvas-box" }, [slice.thumb, slice.small]) : element("div", { className: "nothing", text: "no pixels" });
      const button = element("button", { type: "button", "aria-pressed": "false" }, [box, element("span", { text: slice.name() }), element("small", { text: slice.why }), slice.said]);
      button.addEventListener("click", () => this.choose(k));
      slice.button = button;
      place.append(button);
    }
  }

  #paintThumbs() {
    for (const slice of this.slices) if (slice.image) paintGrey(slice.thumb, slice.image, this.display.table);
  }

  choose(at) {
    this.at = at;
    this.window = this.slices[at].middle();
    this.slices.forEach((slice, k) => slice.button.setAttribute("aria-pressed", String(k === at)));
    const slice = this.slices[at];
    this.tiles = slice.tileElements();
    this.outlines = ["outline under", "outline"].map((name) => svgElement("rect", { class: name }));
    this.overlay.setAttribute("viewBox", slice.viewBox());
    this.overlay.replaceChildren(this.overlay.querySelector("defs"), ...this.tiles, ...this.outlines);
    this.refresh();
  }

  /** Follow the rules. */
  follow() {
    const { decisions } = this.rules;
    for (const slice of this.slices) {
      let changed = slice.drawn === undefined;
      slice.drawn ??= [];
      for (let i = 0; i < slice.count; i += 1) {
        const decision = decisions[slice.start + i];
        if (slice.drawn[i] === decision) continue;
        slice.drawn[i] = decision;
        changed = true;
        slice.small.children[i]?.setAttribute("class", `tile ${decisionClass(decision)}`);
        if (slice === this.slices[this.at]) this.tiles[i].setAttribute("class", `tile ${decisionClass(decision)}`);
      }
      if (changed) slice.said.textContent = `${this.#dropped(slice)} of ${slice.count} dropped`;
    }
    const slice = this.slices[this.at];
    if (this.view === "coverage") this.#paintStage(slice);
    this.#describe(slice);
    this.#showWindow();
  }

  /** Follow the view, the display window and the choice of a slice. */
  refresh() {
    const slice = this.slices[this.at];
    this.tiles.forEach((tile, i) => tile.setAttribute("class", `tile ${decisionClass(this.rules.decisions[slice.start + i])}`));
    this.overlay.classList.toggle("no-tiles", this.view !== "windows");
    this.#paintStage(slice);
    this.#describe(slice);
    this.#showWindow();
  }

  #paintStage(slice) {
    const picture = slice.image ?? { width: slice.shape[1], height: slice.shape[0], codes: new Uint8Array(slice.shape[0] * slice.shape[1]) };
    if (this.view !== "coverage") {
      paintGrey(this.canvas, picture, this.display.table);
      return;
    }
    const { counts, across } = slice.coverage(this.rules.decisions);
    const [height, width] = slice.shape;
    let most = 1;
    let covered = 0;
    for (let row = 0; row < height; row += 1) {
      for (let col = 0; col < width; col += 1) {
        const count = counts[row * across + col];
        if (count) covered += 1;
        if (count > most) most = count;
      }
    }
    slice.covered = { share: covered / (height * width), most };
    const colours = Array.from({ length: most + 1 }, (_, count) => sequential(most > 1 ? (count - 1) / (most - 1) : 1));
    let pixel = 0;
    paint(this.canvas, picture, (code, at, data) => {
      const row = Math.floor((Math.floor(pixel / picture.width) * height) / picture.height);
      const col = Math.floor(((pixel % picture.width) * width) / picture.width);
      const count = counts[row * across + col];
      const grey = this.display.table[code];
      for (let k = 0; k < 3; k += 1) data[at + k] = count ? 0.4 * grey + 0.6 * colours[count][k] : 0.6 * grey;
      pixel += 1;
    });
  }

  #describe(slice) {
    const dropped = this.#dropped(slice);
    const patient = slice.patient ? `, patient ${slice.patient}` : "";
    const partly = slice.image && !slice.whole ? "; put together from its kept patches" : "";
    const gone = slice.image ? "" : "; its pixels are not to be had";
    const text = `${slice.set} slice ${slice.index}${patient}: ${slice.path}; ${slice.shape[0]} x ${slice.shape[1]} pixels, ${dropped} of ${slice.count} windows dropped; shown as ${SHOWN_AS[slice.why]}${partly}${gone}`;
    document.getElementById("stage-caption").textContent = text;
    this.canvas.setAttribute("aria-label", `CT slice, ${text}`);
    const counts = this.rules.counts(slice.start, slice.count);
    this.legend.replaceChildren(...(this.view === "coverage" ? this.#coverageKey(slice) : this.#windowKey(counts)));
  }

  #windowKey(counts) {
    return counts.flatMap((count, decision) => {
      if (decision > 0 && !this.rules.on[decision - 1]) return [];
      const name = decision === 0 ? "kept" : `dropped by ${this.rules.rules[decision - 1].name}`;
      const sample = svgElement("svg", { viewBox: "0 0 30 20", "aria-hidden": "true" }, [svgElement("rect", { class: `tile ${decisionClass(decision)}`, x: 2, y: 2, width: 26, height: 16 })]);
      return [element("div", {}, [sample, element("span", { text: `${name}: ${count}` })])];
    });
  }

  #coverageKey(slice) {
    const { share, most } = slice.covered;
    const stripes = Array.from({ length: most }, (_, k) => {
      const fill = `rgb(${sequential(most > 1 ? k / (most - 1) : 1).map(Math.round).join(",")})`;
      return svgElement("rect", { x: k, width: 1, height: 1, fill });
    });
    const scale = svgElement("svg", { class: "scale", viewBox: `0 0 ${most} 1`, preserveAspectRatio: "none", "aria-hidden": "true" }, stripes);
    return [
      element("div", {}, [element("span", { text: `${(100 * share).toFixed(1)} % of the pixels are in a kept patch` })]),
      element("div", {}, [scale]),
      element("div", {}, [element("span", { text: most > 1 ? `in 1 patch (left) to ${most} (right); grey: in none` : "coloured: in 1 patch; grey: in none" })]),
    ];
  }

  #pointed(event) {
    const found = event.target.dataset?.window;
    if (found === undefined || Number(found) === this.window) return;
    this.window = Number(found);
    this.#showWindow();
  }

  /** Arrow keys go to the nearest window in that direction. */
  #moved(event) {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const slice = this.slices[this.at];
    let best = null;
    let least = Infinity;
    for (let i = 0; i < slice.count; i += 1) {
      const [down, right] = [slice.rows[i] - slice.rows[this.window], slice.cols[i] - slice.cols[this.window]];
      const along = down * step[0] + right * step[1];
      const distance = along + 4 * Math.abs(step[0] ? right : down);
      if (along > 0 && distance < least) [best, least] = [i, distance];
    }
    if (best === null) return;
    this.window = best;
    this.#showWindow();
  }

  #showWindow() {
    const slice = this.slices[this.at];
    const i = this.window;
    if (i >= slice.count) return;
    const [row, col] = [slice.rows[i], slice.cols[i]];
    const sides = { x: col, y: row, width: slice.patchSize[1], height: slice.patchSize[0] };
    for (const outline of this.outlines) for (const [name, value] of Object.entries(sides)) outline.setAttribute(name, value);
    const decision = this.rules.decisions[slice.start + i];
    const said = decision === 0 ? "kept" : `dropped by ${this.rules.rules[decision - 1].name}`;
    const lines = [["row, col", `${row}, ${col}`], ...this.statistics.map((name, k) => [name, shown(slice.statistics[this.statistics.length * i + k])])];
    this.facts.replaceChildren(
      element("p", { className: "id mono", text: windowId(slice.split, slice.index, row, col) }),
      element("p", { text: said }),
      element("table", {}, lines.map(([name, value]) => element("tr", {}, [element("th", { scope: "row", text: name }), element("td", { className: "number", text: value })]))),
    );
  }
}
