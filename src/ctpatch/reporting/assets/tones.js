/** Pixels of a picture as codes, 0 to 255. */
async function codesOf(uri) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
  const codes = new Uint8Array(canvas.width * canvas.height);
  for (let i = 0; i < codes.length; i += 1) codes[i] = data[4 * i];
  return { width: canvas.width, height: canvas.height, codes };
}

/** Grey for each code, by its level and a display window. */
function greyTable(levels, low, high) {
  return Uint8ClampedArray.from(levels, (level) => (255 * (level - low)) / (high - low));
}

function paintGrey(canvas, picture, table) {
  paint(canvas, picture, (code, at, data) => {
    data[at] = data[at + 1] = data[at + 2] = table[code];
  });
}

/** Differences: blue below zero, white at it, orange above; told apart by the colour-blind too. */
function paintDifference(canvas, picture) {
  const ends = [[0, 92, 171], [247, 247, 247], [230, 97, 1]];
  paint(canvas, picture, (code, at, data) => {
    const share = (code - 127.5) / 127.5;
    const end = share < 0 ? ends[0] : ends[2];
    for (let k = 0; k < 3; k += 1) data[at + k] = ends[1][k] + (end[k] - ends[1][k]) * Math.abs(share);
  });
}

function paint(canvas, { width, height, codes }, write) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  for (let i = 0; i < codes.length; i += 1) {
    write(codes[i], 4 * i, image.data);
    image.data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
}

/** Colours for counts, dark blue to yellow (after cividis): ascending in lightness, so they print in grey. */
const SEQUENCE = [[0, 45, 110], [66, 78, 108], [124, 123, 120], [188, 171, 98], [253, 231, 55]];

function sequential(share) {
  const place = Math.min(Math.max(share, 0), 1) * (SEQUENCE.length - 1);
  const at = Math.min(Math.floor(place), SEQUENCE.length - 2);
  return SEQUENCE[at].map((low, k) => low + (SEQUENCE[at + 1][k] - low) * (place - at));
}

/** The display window that is chosen, and who is told when it changes. */
class DisplayWindow {
  constructor(levels, presets) {
    this.levels = levels;
    this.presets = presets;
    this.listeners = [];
    this.choice = document.getElementById("display-window");
    this.low = document.getElementById("display-low");
    this.high = document.getElementById("display-high");
    this.choice.append(...presets.map((preset, k) => element("option", { value: k, text: preset.name })));
    this.choice.append(element("option", { value: "own", text: "own", hidden: "" }));
    this.choice.addEventListener("change", () => this.use(presets[Number(this.choice.value)]));
    for (const field of [this.low, this.high]) field.addEventListener("change", () => this.#useFields());
    this.use(presets[0]);
  }

  use({ low, high }) {
    this.low.value = shown(low);
    this.high.value = shown(high);
    this.#set(low, high);
  }

  #useFields() {
    const [low, high] = [this.low.valueAsNumber, this.high.valueAsNumber];
    if (!(high > low)) return;
    this.choice.value = "own";
    this.#set(low, high);
  }

  #set(low, high) {
    this.table = greyTable(this.levels, low, high);
    this.listeners.forEach((listener) => listener());
  }
}
