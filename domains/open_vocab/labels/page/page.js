"use strict";

const token = new URLSearchParams(location.search).get("token") || "";
const page = sessionStorage.getItem("page") || crypto.randomUUID();
sessionStorage.setItem("page", page);

const at = (id) => document.getElementById(id);
const canvas = at("picture");
const pen = canvas.getContext("2d");
const REACH = 9; // display pixels around a corner in which it is taken
const LEAST = 2; // sides of a box, in pixels of the image
let state = null; // classes, images: [{name, width, height, done, unshown}]
let current = -1; // the image whose picture and boxes are on the page; -1: none yet
let boxes = []; // {name, corners, of, score, polygons}
let before = "[]"; // boxes as they came
let chosen = -1;
let picture = new Image();
let zoom = 1;
let drag = null; // {kind, box, from, corners}
let lastName = 0; // class of a new box
let typed = "";
let work = Promise.resolve(); // keys are handled one after the other, none is lost while a decision is written
let turning = 1; // steps to another image that are not yet done, the first image among them
let ended = false;

async function ask(path, body) {
  const how = { headers: { "X-Token": token } };
  if (body !== undefined) {
    how.method = "POST";
    how.headers["Content-Type"] = "application/json";
    how.body = JSON.stringify({ page, ...body });
  }
  let response;
  try {
    response = await fetch(path, how);
  } catch {
    throw new Error(
      "The server has stopped: decisions are no longer saved. Run vladapt review again and open its new address to continue.",
    );
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function show(error) {
  at("message").textContent = error ? error.message : "";
  at("message").hidden = !error;
}

const colour = (index) => `hsl(${Math.round((index * 222.5) % 360)} 85% ${[60, 50, 70][index % 3]}%)`;

async function start() {
  try {
    state = await ask("open", {});
  } catch (error) {
    ended = true;
    show(error);
    return;
  }
  const digits = String(state.classes.length).length;
  state.classes.forEach((name, index) => {
    const button = document.createElement("button");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = colour(index);
    const key = document.createElement("kbd");
    key.textContent = String(index + 1).padStart(digits, "0");
    button.append(swatch, name, key);
    button.addEventListener("click", () => then(() => nameChosen(index)));
    at("classes").append(button);
  });
  then(begin);
  setInterval(() => then(() => ask("here", {})), 2000);
}

function firstOpen(from) {
  const order = state.images.map((_, index) => (from + index) % state.images.length);
  const shown = order.filter((index) => !state.images[index].unshown);
  return shown.find((index) => !state.images[index].done) ?? shown[0] ?? from;
}

async function begin() {
  for (let tries = state.images.length; tries && current < 0; tries -= 1) {
    await go(firstOpen(0)).catch(show);
  }
  turning -= 1;
  ended = current < 0; // no image can be shown
}

// The page shows one image or another, never the boxes of one on another: an image that cannot be loaded changes nothing.
async function go(index) {
  const next = (index + state.images.length) % state.images.length;
  const [answer, loaded] = await Promise.all([ask(`boxes/${next}`), load(next)]);
  [current, picture, zoom, typed, drag] = [next, loaded, 1, "", null];
  take(answer);
  draw();
}

function take(answer) {
  boxes = answer.boxes.map((box, of) => ({ ...box, of }));
  before = JSON.stringify(boxes);
  chosen = boxes.length ? 0 : -1;
}

function load(index) {
  return new Promise((resolve, reject) => {
    const loaded = new Image();
    loaded.onload = () => resolve(loaded);
    loaded.onerror = () => {
      state.images[index].unshown = true;
      reject(new Error(`The image ${state.images[index].name} cannot be shown and is passed over.`));
    };
    loaded.src = `picture/${index}?token=${encodeURIComponent(token)}`;
  });
}

function scale() {
  const { width, height } = state.images[current];
  const frame = at("frame");
  const fit = Math.min(frame.clientWidth / width, frame.clientHeight / height);
  return Math.max(fit * zoom, 1e-6);
}

function draw() {
  const { width, height } = state.images[current];
  const by = scale();
  const ratio = window.devicePixelRatio || 1;
  canvas.style.width = `${Math.floor(width * by)}px`;
  canvas.style.height = `${Math.floor(height * by)}px`;
  canvas.width = Math.max(1, Math.floor(width * by * ratio));
  canvas.height = Math.max(1, Math.floor(height * by * ratio));
  pen.setTransform(by * ratio, 0, 0, by * ratio, 0, 0);
  pen.imageSmoothingEnabled = by < 3;
  pen.drawImage(picture, 0, 0, width, height);
  const order = boxes.map((_, index) => index).filter((index) => index !== chosen);
  if (chosen >= 0) order.push(chosen);
  order.forEach((index) => drawBox(boxes[index], index === chosen, 1 / by));
  tell();
}

function drawBox(box, isChosen, unit) {
  const shade = colour(state.classes.indexOf(box.name));
  const [x0, y0, x1, y1] = box.corners;
  pen.strokeStyle = shade;
  pen.fillStyle = shade;
  if (box.polygons.length && isSame(box)) {
    pen.globalAlpha = 0.3;
    pen.beginPath();
    box.polygons.forEach((polygon) => {
      for (let place = 0; place < polygon.length; place += 2) {
        pen[place ? "lineTo" : "moveTo"](polygon[place], polygon[place + 1]);
      }
      pen.closePath();
    });
    pen.fill();
    pen.globalAlpha = 1;
  }
  pen.lineWidth = (isChosen ? 3 : 1.5) * unit;
  pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  const text = box.score === null ? box.name : `${box.name} ${box.score.toFixed(2)}`;
  pen.font = `${13 * unit}px system-ui, sans-serif`;
  const long = pen.measureText(text).width + 6 * unit;
  const high = 17 * unit;
  const { width } = state.images[current];
  const left = Math.max(0, Math.min(x0, width - long));
  const top = y0 >= high ? y0 - high : y0;
  pen.fillRect(left, top, long, high);
  pen.fillStyle = "#000";
  pen.textBaseline = "middle";
  pen.fillText(text, left + 3 * unit, top + high / 2);
  if (!isChosen) return;
  pen.fillStyle = "#fff";
  pen.lineWidth = unit;
  corners(box).forEach(([x, y]) => {
    pen.fillRect(x - 4 * unit, y - 4 * unit, 8 * unit, 8 * unit);
    pen.strokeRect(x - 4 * unit, y - 4 * unit, 8 * unit, 8 * unit);
  });
}

const corners = ({ corners: [x0, y0, x1, y1] }) => [[x0, y0], [x1, y0], [x1, y1], [x0, y1]];

function isSame(box) {
  const known = box.of === null ? null : JSON.parse(before)[box.of];
  return known !== null && known.corners.every((value, place) => Math.abs(value - box.corners[place]) < 0.01);
}

function tell() {
  const done = state.images.filter((image) => image.done).length;
  const total = state.images.length;
  const finished = done === total ? " All images are reviewed: close this page and stop vladapt review with Ctrl-C." : "";
  const changed = JSON.stringify(boxes) === before ? "" : " (changed)";
  at("progress").textContent = `Image ${current + 1} of ${total}${changed}, ${done} done.${finished}`;
  at("bar").value = done / total;
  const box = boxes[chosen];
  const which = box ? `box ${chosen + 1} of ${boxes.length}: ${box.name}` : `${boxes.length} boxes, none chosen`;
  at("box").textContent = `${state.images[current].name}, ${which}`;
  [...at("classes").children].forEach((button, index) => {
    const name = box ? box.name : state.classes[lastName];
    button.setAttribute("aria-pressed", String(state.classes[index] === name));
  });
  at("typed").textContent = typed ? ` (${typed}…)` : "";
}

async function accept() {
  const listed = boxes.map(({ name, corners: of4, of }) => ({ name, corners: of4, of }));
  await ask("decide", { image: current, boxes: listed });
  state.images[current].done = true;
  take(await ask(`boxes/${current}`)); // they stay on the page where the next image cannot be shown
  tell();
  await go(firstOpen((current + 1) % state.images.length));
}

async function undo() {
  const { image } = await ask("undo", {});
  if (image === null) return;
  state.images[image].done = false;
  await go(image);
}

function leaf(step) {
  if (JSON.stringify(boxes) !== before) {
    throw new Error("This image has changes: Enter keeps them, z discards them.");
  }
  const total = state.images.length;
  const order = state.images.map((_, index) => (current + step * (index + 1) + total) % total);
  return go(order.find((index) => !state.images[index].unshown) ?? current);
}

function startOver() {
  boxes = JSON.parse(before);
  chosen = boxes.length ? 0 : -1;
  draw();
}

function drop() {
  if (chosen < 0) return;
  boxes.splice(chosen, 1);
  chosen = Math.min(chosen, boxes.length - 1);
  draw();
}

function nameChosen(index) {
  lastName = index;
  if (chosen >= 0) boxes[chosen].name = state.classes[index];
  draw();
}

function digit(key) {
  typed += key;
  if (typed.length < String(state.classes.length).length) return draw();
  const index = Number(typed) - 1;
  typed = "";
  if (index >= 0 && index < state.classes.length) return nameChosen(index);
  draw();
}

function add(corners) {
  boxes.push({ name: state.classes[lastName], corners, of: null, score: null, polygons: [] });
  chosen = boxes.length - 1;
}

function addInMiddle() {
  const { width, height } = state.images[current];
  add([width * 0.4, height * 0.4, width * 0.6, height * 0.6].map(rounded));
  draw();
}

function choose(step) {
  if (!boxes.length) return;
  chosen = (chosen + step + boxes.length) % boxes.length;
  draw();
}

const rounded = (value) => Math.round(value * 100) / 100;

function move(x, y, isCorner) {
  if (chosen < 0) return;
  const { width, height } = state.images[current];
  const step = Math.max(1, Math.round(Math.max(width, height) / 200));
  const [x0, y0, x1, y1] = boxes[chosen].corners;
  const by = [x * step, y * step];
  boxes[chosen].corners = isCorner
    ? [x0, y0, within(x1 + by[0], x0 + LEAST, width), within(y1 + by[1], y0 + LEAST, height)]
    : shifted([x0, y0, x1, y1], by);
  draw();
}

const within = (value, low, high) => rounded(Math.max(low, Math.min(value, high)));

function shifted([x0, y0, x1, y1], [x, y]) {
  const { width, height } = state.images[current];
  const right = Math.max(-x0, Math.min(x, width - x1));
  const down = Math.max(-y0, Math.min(y, height - y1));
  return [x0 + right, y0 + down, x1 + right, y1 + down].map(rounded);
}

function zoomed(by) {
  zoom = Math.min(16, Math.max(1, zoom * by));
  draw();
}

// pointer: a corner is dragged, a box moved, a new one drawn

function place(event) {
  const frame = canvas.getBoundingClientRect();
  const { width, height } = state.images[current];
  return [((event.clientX - frame.left) / frame.width) * width, ((event.clientY - frame.top) / frame.height) * height];
}

function taken([x, y]) {
  const reach = REACH / scale();
  const order = boxes.map((_, index) => index).sort((one, other) => (other === chosen) - (one === chosen));
  for (const index of order) {
    const corner = corners(boxes[index]).findIndex(([u, v]) => Math.hypot(u - x, v - y) <= reach);
    if (corner >= 0) return { kind: "corner", box: index, corner };
  }
  const area = ({ corners: [x0, y0, x1, y1] }) => (x1 - x0) * (y1 - y0);
  const inside = order.filter((index) => {
    const [x0, y0, x1, y1] = boxes[index].corners;
    return x >= x0 && x <= x1 && y >= y0 && y <= y1;
  });
  inside.sort((one, other) => area(boxes[one]) - area(boxes[other]));
  return inside.length ? { kind: "move", box: inside[0] } : { kind: "new", box: -1 };
}

canvas.addEventListener("pointerdown", (event) => {
  if (current < 0 || ended) return;
  event.preventDefault();
  canvas.focus();
  canvas.setPointerCapture(event.pointerId);
  const from = place(event);
  drag = { ...taken(from), from };
  if (drag.kind === "new") return;
  chosen = drag.box;
  drag.corners = [...boxes[chosen].corners];
  draw();
});

canvas.addEventListener("pointermove", (event) => {
  if (drag === null) return;
  const [x, y] = place(event);
  const by = [x - drag.from[0], y - drag.from[1]];
  if (drag.kind === "new") {
    if (Math.hypot(...by) * scale() < 4) return;
    add([...drag.from, ...drag.from]);
    drag = { kind: "corner", box: chosen, corner: 2, from: drag.from, corners: [...drag.from, ...drag.from] };
  }
  const { width, height } = state.images[current];
  if (drag.kind === "move") {
    boxes[drag.box].corners = shifted(drag.corners, by);
  } else {
    const [x0, y0, x1, y1] = drag.corners;
    const fixed = [[x1, y1], [x0, y1], [x0, y0], [x1, y0]][drag.corner];
    const free = [Math.max(0, Math.min(x, width)), Math.max(0, Math.min(y, height))];
    boxes[drag.box].corners = [
      Math.min(fixed[0], free[0]),
      Math.min(fixed[1], free[1]),
      Math.max(fixed[0], free[0]),
      Math.max(fixed[1], free[1]),
    ].map(rounded);
  }
  draw();
});

function released() {
  if (drag === null) return;
  const box = boxes[drag.box];
  if (box && (box.corners[2] - box.corners[0] < LEAST || box.corners[3] - box.corners[1] < LEAST)) {
    if (drag.corners && box.of !== null) box.corners = drag.corners;
    else drop();
  }
  drag = null;
  draw();
}

canvas.addEventListener("pointerup", released);
canvas.addEventListener("pointercancel", released);

const KEYS = {
  Enter: accept,
  d: drop,
  Delete: drop,
  a: addInMiddle,
  j: () => choose(1),
  k: () => choose(-1),
  z: startOver,
  Backspace: undo,
  n: () => leaf(1),
  p: () => leaf(-1),
  "+": () => zoomed(1.5),
  "=": () => zoomed(1.5),
  "-": () => zoomed(1 / 1.5),
  r: () => zoomed(0),
};
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

function then(step) {
  if (ended || state === null) return;
  work = work.then(step).then(
    () => undefined,
    (error) => show(error),
  );
}

const TURNS = ["Enter", "Backspace", "n", "p"];

// Enter counts for the image that is seen when it is pressed: held down, or while the next one loads, it is none.
function press(key, step) {
  if (key === "Enter" && turning) return;
  const turns = TURNS.includes(key) ? 1 : 0;
  turning += turns;
  then(async () => {
    try {
      await step();
      show(null);
    } finally {
      turning -= turns;
    }
  });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || state === null) return;
  let step = /^[0-9]$/.test(event.key) ? () => digit(event.key) : KEYS[event.key];
  if (ARROWS[event.key]) step = () => move(...ARROWS[event.key], event.shiftKey);
  if (!step) return;
  event.preventDefault(); // Enter on a button would press it too
  if (event.repeat && (event.key === "Enter" || event.key === "Backspace")) return;
  press(event.key, step);
});

document.querySelectorAll("[data-key]").forEach((button) => {
  button.addEventListener("click", () => {
    button.blur();
    press(button.dataset.key, KEYS[button.dataset.key]);
  });
});

addEventListener("resize", () => current >= 0 && draw());

addEventListener("pagehide", () => {
  const gone = new Blob([JSON.stringify({ page })], { type: "application/json" });
  navigator.sendBeacon(`leave?token=${encodeURIComponent(token)}`, gone);
});

start();
