/** The panel of rules: switches, sliders, counts, and the options to copy. */
class TunePanel {
  constructor(content, rules, changed) {
    this.rules = rules;
    this.changed = changed;
    this.sets = content.sets;
    this.otherOptions = content.options;
    this.built = content.sets.reduce((sum, each) => sum + each.kept, 0);
    this.parts = rules.rules.map((_, k) => this.#rule(k));
    document.getElementById("rules").replaceChildren(...this.parts.map((part) => part.place));
    document.getElementById("window-count").textContent = wholeNumber.format(rules.rows);
    document.getElementById("reset").addEventListener("click", () => {
      rules.reset();
      this.#showRules();
      this.changed();
    });
    document.getElementById("copy").addEventListener("click", () => this.#copy());
    this.#makeTable();
    this.#showRules();
  }

  #rule(k) {
    const rule = this.rules.rules[k];
    const check = element("input", { type: "checkbox", id: `on-${k}` });
    check.addEventListener("change", () => {
      this.rules.on[k] = check.checked;
      this.#showRules();
      this.changed();
    });
    const sliders = this.rules.sliders.flatMap((slider, number) => (slider.rule === k ? [this.#slider(number, check)] : []));
    const took = element("p", { className: "took" });
    const whole = element("p", { className: "whole mono" });
    const name = element("label", { for: `on-${k}` }, [check, element("span", { className: `swatch ${decisionClass(k + 1)}` }), document.createTextNode(rule.name)]);
    const place = element("fieldset", { className: "rule" }, [element("legend", {}, [name]), ...sliders.map((each) => each.place), took, whole]);
    return { place, check, sliders, took, whole, simple: rule.root.kind === "test" };
  }

  #slider(number, check) {
    const { column: name, op, rule } = this.rules.sliders[number];
    const column = this.rules.columns.get(name);
    const label = `${name} ${op}`;
    const input = element("input", { type: "range", min: 0, max: column.stops.length - 1, step: 1, "aria-label": `${this.rules.rules[rule].name}: ${label}`, id: `slider-${number}`, "data-column": name, "data-op": op });
    const field = element("input", { type: "number", step: "any", "aria-label": `${this.rules.rules[rule].name}: ${label}, as a number`, id: `value-${number}` });
    const move = (stop) => {
      this.rules.move(number, stop);
      this.rules.on[rule] = true;
      check.checked = true;
      this.#showRules();
      this.changed();
    };
    input.addEventListener("input", () => move(Number(input.value)));
    field.addEventListener("change", () => {
      if (Number.isFinite(field.valueAsNumber)) move(column.nearestStop(field.valueAsNumber));
      this.#showRules();
    });
    const chart = element("div", { className: "small-chart" });
    const place = element("div", { className: "slider" }, [element("label", { for: `value-${number}`, text: label }), field, chart, input]);
    const bars = new Histogram(chart, { height: 44, small: true, edges: column.edges, ends: [column.begin, column.end], thresholds: () => [this.rules.valueOf(number)] });
    return { number, place, input, field, column, bars };
  }

  #makeTable() {
    const table = document.getElementById("split-counts");
    if (this.sets.length < 2) {
      table.hidden = true;
      return;
    }
    this.cells = this.sets.map(() => [element("td", { className: "number" }), element("td", { className: "number" })]);
    table.append(
      element("thead", {}, [element("tr", {}, ["set", "kept", "of windows"].map((text) => element("th", { scope: "col", text })))]),
      element("tbody", {}, this.sets.map((each, k) => element("tr", {}, [element("th", { scope: "row", text: each.name }), ...this.cells[k]]))),
    );
  }

  #showRules() {
    for (const [k, part] of this.parts.entries()) {
      part.check.checked = this.rules.on[k];
      part.place.classList.toggle("off", !this.rules.on[k]);
      const condition = this.rules.condition(k);
      part.whole.textContent = part.simple ? "" : condition;
      for (const slider of part.sliders) {
        const value = this.rules.valueOf(slider.number);
        slider.input.value = this.rules.stops[slider.number];
        slider.input.setAttribute("aria-valuetext", shown(value));
        if (document.activeElement !== slider.field || slider.field.valueAsNumber !== value) slider.field.value = value;
      }
    }
  }

  drawCharts() {
    for (const part of this.parts) part.sliders.forEach((slider) => slider.bars.draw());
  }

  /** Follow the decisions. */
  refresh(bars) {
    const counts = this.rules.counts();
    const [kept] = counts;
    const result = document.getElementById("kept-count");
    result.textContent = wholeNumber.format(kept);
    result.dataset.count = kept;
    const change = kept - this.built;
    const share = `${((100 * kept) / this.rules.rows).toFixed(1)} %`;
    const sign = change > 0 ? "+" : "−";
    document.getElementById("change").textContent = `${share}; ${change ? `${sign}${wholeNumber.format(Math.abs(change))} against as built` : "as built"}`;
    document.getElementById("bottom").textContent = `${wholeNumber.format(kept)} of ${wholeNumber.format(this.rules.rows)} kept (${share})`;
    for (const [k, part] of this.parts.entries()) {
      part.took.textContent = this.rules.on[k] ? `drops ${wholeNumber.format(counts[k + 1])}` : "off";
      part.took.dataset.count = counts[k + 1];
      part.sliders.forEach((slider) => slider.bars.set(bars.get(slider.column.name)));
    }
    this.cells?.forEach((cells, k) => {
      const { start, count } = this.sets[k];
      const [keptHere] = this.rules.counts(start, count);
      cells[0].textContent = wholeNumber.format(keptHere);
      cells[0].dataset.count = keptHere;
      cells[1].textContent = count ? `${((100 * keptHere) / count).toFixed(1)} %` : "none";
    });
    const options = [...this.otherOptions, ...this.rules.options()];
    document.getElementById("copy").disabled = !options.length;
    const words = options.flatMap((text, k) => [k ? " " : "", element("span", { className: "option", text })]);
    document.getElementById("options").replaceChildren(...(options.length ? words : ["no rule: every window is kept"]));
  }

  async #copy() {
    const text = document.getElementById("options").textContent;
    const said = document.getElementById("copied");
    try {
      await navigator.clipboard.writeText(text);
      said.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(document.getElementById("options"));
      said.textContent = "marked: copy with Ctrl+C";
    }
  }
}
