/** Contact sheets and pairs. */
class PatchSheets {
  constructor({ gallery, compared }, rules, display) {
    this.gallery = gallery;
    this.compared = compared;
    this.rules = rules;
    this.display = display;
    this.grey = [];
    this.frames = [];
  }

  async start() {
    const place = document.getElementById("groups");
    for (const group of this.gallery.groups) {
      const title = element("h3", { text: `${group.title} ` }, [element("small", { text: group.note })]);
      const patches = element("div", { className: "patches" });
      for (const patch of group.patches) patches.append(await this.#patch(patch));
      place.append(element("div", { className: "group" }, [title, patches]));
    }
    if (this.gallery.pairs) await this.#pairs(this.gallery.pairs);
    this.display.listeners.push(() => this.paint());
    this.paint();
  }

  async #patch(patch) {
    const frame = element("div", { className: "frame" }, [await this.#picture(patch.picture, `patch ${patch.id}`)]);
    this.frames.push([frame, patch.row]);
    const numbers = this.compared.map((name) => `${name.replace(/_fraction$/, "")} ${shown(patch.statistics[name], 3)}`).join(", ");
    return element("figure", { className: "patch" }, [
      frame,
      element("figcaption", {}, [element("span", { className: "mono", text: patch.id }), document.createTextNode(numbers)]),
    ]);
  }

  async #picture(uri, label, levels = null) {
    if (!uri) return element("div", { className: "nothing", text: "no pixels" });
    const canvas = element("canvas", { role: "img", "aria-label": label });
    this.grey.push([canvas, await codesOf(uri), levels]);
    return canvas;
  }

  async #pairs({ partner, labels, tones, reach, patches }) {
    const list = element("div", { className: "pair-list" });
    for (const patch of patches) {
      const pictures = [
        await this.#picture(patch.picture, `image of ${patch.id}`),
        await this.#picture(patch.other, `${partner} of ${patch.id}`, labels ? tones : null),
      ];
      if (patch.difference) {
        const canvas = element("canvas", { role: "img", "aria-label": `image less ${partner} of ${patch.id}` });
        paintDifference(canvas, await codesOf(patch.difference));
        pictures.push(canvas);
      }
      const names = ["image", partner, `image less ${partner}`];
      const figures = pictures.map((picture, k) => element("figure", { className: "patch" }, [picture, element("figcaption", { text: names[k] })]));
      list.append(element("figure", {}, [element("div", { className: "pair" }, figures), element("figcaption", { className: "mono", text: patch.id })]));
    }
    const place = document.getElementById("pairs");
    if (!labels) place.append(element("p", { text: `Differences: blue is -${shown(reach)} or less, white 0, orange ${shown(reach)} or more.` }));
    place.append(list);
  }

  paint() {
    for (const [canvas, picture, levels] of this.grey) {
      paintGrey(canvas, picture, levels ? greyTable(levels, levels[0], levels.at(-1)) : this.display.table);
    }
  }

  refresh() {
    for (const [frame, row] of this.frames) frame.className = `frame ${decisionClass(this.rules.decisions[row])}`;
  }
}
