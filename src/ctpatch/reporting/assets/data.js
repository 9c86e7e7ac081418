"use strict";

/** The page's data: JSON as it is, and the block of numbers behind it. */
async function loadData() {
  const content = JSON.parse(document.getElementById("data").textContent);
  const text = atob(document.getElementById("numbers").textContent);
  const packed = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i += 1) packed[i] = text.charCodeAt(i);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const bytes = new Uint8Array(await new Response(stream).arrayBuffer());
  return { content, numbers: (place) => numbersAt(bytes, place) };
}

const NUMBER_TYPES = { uint8: Uint8Array, uint16: Uint16Array, uint32: Uint32Array, int32: Int32Array, float32: Float32Array };

/** One array of the block; its lowest bytes come first, then the next ones. */
function numbersAt(bytes, { offset, count, type }) {
  const found = new NUMBER_TYPES[type](count);
  const width = found.BYTES_PER_ELEMENT;
  const joined = new Uint8Array(found.buffer);
  for (let plane = 0; plane < width; plane += 1) {
    const start = offset + plane * count;
    for (let i = 0; i < count; i += 1) joined[i * width + plane] = bytes[start + i];
  }
  return found;
}

/** An element with a class, a text and children; text from data only ever becomes text. */
function element(tag, { className, text, ...attributes } = {}, children = []) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const SVG = "http://www.w3.org/2000/svg";

function svgElement(tag, attributes = {}, children = []) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

const COLOURS = 6;

/** The class that colours a decision: 0 is kept, k + 1 is dropped by rule k. */
function decisionClass(decision) {
  return decision === 0 ? "kept" : `drop-${(decision - 1) % COLOURS}`;
}

const wholeNumber = new Intl.NumberFormat("en");

function shown(value, digits = 4) {
  return Number.isInteger(value) ? String(value) : Number(value.toPrecision(digits)).toString();
}

function windowId(split, slice, row, col) {
  const padded = (number, width) => String(number).padStart(width, "0");
  return `${split}_${padded(slice, 6)}_${padded(row, 3)}_${padded(col, 3)}`;
}
