/** Stops of a slider, as Python makes them: each from its decimal text, so both read the same float64. */
function stopsOf({ first, count, step, exponent, extra }) {
  const regular = Array.from({ length: count }, (_, k) => Number(`${(first + k) * step}e${exponent}`));
  const values = Float64Array.from(new Set([...regular, ...extra])).sort();
  return { regular, values };
}

/** A column of all windows: where each value lies among the stops. */
class Column {
  constructor(described, numbers) {
    this.name = described.name;
    this.title = described.title;
    const { regular, values } = stopsOf(described);
    this.stops = values;
    this.codes = numbers(described.codes);
    this.bars = Math.ceil((described.count - 1) / described.barEvery);
    const edge = (bar) => Number(`${(described.first + bar * described.barEvery) * described.step}e${described.exponent}`);
    this.edges = Array.from({ length: this.bars + 1 }, (_, bar) => edge(bar));
    this.end = Math.max(regular.at(-1), values.at(-1));
    this.begin = values[0];
    const barOfCode = this.#barsOfCodes();
    this.barOfRow = Uint8Array.from(this.codes, (code) => barOfCode[code]);
    this.all = new Map();
  }

  /** The bar each code falls into: a bar holds its lower edge, the last one its upper edge too. */
  #barsOfCodes() {
    const bars = new Uint8Array(2 * this.stops.length + 1);
    let bar = 0;
    this.stops.forEach((stop, k) => {
      while (bar + 1 < this.bars && this.edges[bar + 1] <= stop) bar += 1;
      bars[2 * k + 1] = bar;
      bars[2 * k + 2] = bar;
    });
    return bars;
  }

  nearestStop(value) {
    let best = 0;
    this.stops.forEach((stop, k) => {
      if (Math.abs(stop - value) < Math.abs(this.stops[best] - value)) best = k;
    });
    return best;
  }
}

/** All windows and the rules that judge them; 0 is kept, k + 1 is dropped by rule k, the first that hits. */
class Rules {
  constructor(content, numbers) {
    this.rows = content.rows;
    this.columns = new Map(content.columns.map((each) => [each.name, new Column(each, numbers)]));
    this.rules = content.rules;
    this.sliders = content.sliders;
    this.fixed = new Map(content.fixed.map((each) => [each.condition, numbers(each.bits)]));
    this.fixedMasks = new Map();
    this.recorded = content.recorded ? numbers(content.recorded) : null;
    this.decisions = new Uint16Array(this.rows);
    this.masks = [];
    this.testMasks = [];
    this.reset();
  }

  /** The rules as they are in the set; those that are only offered are off. */
  reset() {
    this.on = this.rules.map((rule) => rule.condition !== "");
    this.stops = this.sliders.map((slider) => slider.stop);
    this.masks = [];
    this.testMasks = [];
    this.decide();
  }

  move(slider, stop) {
    this.stops[slider] = stop;
    this.testMasks[slider] = undefined;
    this.masks[this.sliders[slider].rule] = undefined;
  }

  valueOf(slider) {
    return this.columns.get(this.sliders[slider].column).stops[this.stops[slider]];
  }

  decide() {
    if (this.recorded) {
      this.decisions.set(this.recorded);
      return;
    }
    const decisions = this.decisions.fill(0);
    for (let rule = this.rules.length - 1; rule >= 0; rule -= 1) {
      if (!this.on[rule]) continue;
      const mask = (this.masks[rule] ??= this.#mask(this.rules[rule].root));
      const hit = rule + 1;
      for (let i = 0; i < mask.length; i += 1) if (mask[i]) decisions[i] = hit;
    }
  }

  #mask(node) {
    if (node.kind === "test") return (this.testMasks[node.slider] ??= this.#test(node.slider));
    if (node.kind === "fixed") return this.#fixedMask(node.condition);
    const [first, ...others] = node.parts.map((part) => this.#mask(part));
    const mask = first.slice();
    if (node.kind === "not") {
      for (let i = 0; i < mask.length; i += 1) mask[i] ^= 1;
    }
    for (const other of others) {
      if (node.kind === "and") for (let i = 0; i < mask.length; i += 1) mask[i] &= other[i];
      else for (let i = 0; i < mask.length; i += 1) mask[i] |= other[i];
    }
    return mask;
  }

  /** Code 2k + 1 equals stop k, smaller codes lie below it, larger ones above. */
  #test(slider) {
    const { column, op } = this.sliders[slider];
    const { codes } = this.columns.get(column);
    const place = 2 * this.stops[slider] + 1;
    const mask = new Uint8Array(codes.length);
    if (op === "<" || op === "<=") {
      const bound = op === "<" ? place : place + 1;
      for (let i = 0; i < codes.length; i += 1) mask[i] = codes[i] < bound ? 1 : 0;
    } else {
      const bound = op === ">" ? place : place - 1;
      for (let i = 0; i < codes.length; i += 1) mask[i] = codes[i] > bound ? 1 : 0;
    }
    return mask;
  }

  #fixedMask(condition) {
    if (!this.fixedMasks.has(condition)) {
      const bits = this.fixed.get(condition);
      const mask = new Uint8Array(this.rows);
      for (let i = 0; i < mask.length; i += 1) mask[i] = (bits[i >> 3] >> (i & 7)) & 1;
      this.fixedMasks.set(condition, mask);
    }
    return this.fixedMasks.get(condition);
  }

  /** How often each decision was taken among some rows. */
  counts(start = 0, count = this.rows) {
    const found = new Uint32Array(this.rules.length + 1);
    const { decisions } = this;
    const end = start + count;
    for (let i = start; i < end; i += 1) found[decisions[i]] += 1;
    return Array.from(found);
  }

  /** Bars of a column among some rows: how many windows, which no rule changes, and how many of them are kept. */
  bars(column, start = 0, count = this.rows) {
    const { barOfRow, bars } = column;
    const { decisions } = this;
    const end = start + count;
    const place = `${start} ${count}`;
    if (!column.all.has(place)) {
      const all = new Uint32Array(bars);
      for (let i = start; i < end; i += 1) all[barOfRow[i]] += 1;
      column.all.set(place, all);
    }
    // Dropped windows are counted too, behind the last bar: quicker than a branch.
    const counted = new Uint32Array(2 * bars);
    for (let i = start; i < end; i += 1) counted[barOfRow[i] + (decisions[i] === 0 ? 0 : bars)] += 1;
    return { all: column.all.get(place), kept: counted.slice(0, bars) };
  }

  /** A rule as SQL: word for word as in the set, unless a threshold was moved. */
  condition(rule) {
    const { condition, root } = this.rules[rule];
    const moved = this.sliders.some((slider, k) => slider.rule === rule && this.stops[k] !== slider.stop);
    return condition && !moved ? condition : this.#text(root);
  }

  #text(node, outer = "") {
    if (node.kind === "fixed") return `(${node.condition})`;
    if (node.kind === "not") return `NOT (${this.#text(node.parts[0])})`;
    if (node.kind === "test") {
      const { column, op } = this.sliders[node.slider];
      return `${column} ${op} ${numberText(this.valueOf(node.slider))}`;
    }
    const text = node.parts.map((part) => this.#text(part, node.kind)).join(node.kind === "and" ? " AND " : " OR ");
    return outer === "and" && node.kind === "or" ? `(${text})` : text;
  }

  /** The options that decide so. */
  options() {
    return this.rules.flatMap((rule, k) => (this.on[k] ? [`--drop ${quoted(`${rule.name}: ${this.condition(k)}`)}`] : []));
  }
}

/** A number that SQL and Python read as this one; JavaScript writes an exponent's plus sign, SQL would add. */
function numberText(value) {
  return String(value).replace("e+", "e");
}

/** A word for a shell: in double quotes where nothing in it means anything there. */
function quoted(text) {
  if (!/["$`\\!%\n\r]/.test(text)) return `"${text}"`;
  return `'${text.replaceAll("'", "'\\''")}'`;
}
