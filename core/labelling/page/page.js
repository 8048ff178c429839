"use strict";

const token = new URLSearchParams(location.search).get("token") || "";
const page = sessionStorage.getItem("page") || crypto.randomUUID();
sessionStorage.setItem("page", page);

const at = (id) => document.getElementById(id);
let state = null; // classes, several, images: [{labels, answer}]
let current = 0;
let chosen = new Set(); // of an image that may have several labels
let typed = "";
let stills = ["image"];
let still = 0;
let zoom = { scale: 1, x: 0, y: 0 };
let work = Promise.resolve(); // keys are handled one after the other, none is lost while an answer is written
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
      "The server has stopped: answers are no longer saved. Run vladapt label again and open its new address to continue.",
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

async function start() {
  try {
    state = await ask("open", {});
  } catch (error) {
    ended = true;
    show(error);
    return;
  }
  at("confirm").hidden = !state.several;
  const digits = String(state.classes.length).length;
  state.classes.forEach((name, index) => {
    const button = document.createElement("button");
    const key = String(index + 1).padStart(digits, "0");
    button.append(name);
    const shown = document.createElement("kbd");
    shown.textContent = key;
    button.append(shown);
    button.addEventListener("click", () => then(() => choose(index)));
    at("classes").append(button);
  });
  await go(firstOpen(0));
  setInterval(() => then(() => ask("here", {})), 2000);
}

const isDone = (image) => image.labels.length > 0 || image.answer !== "";

function firstOpen(from) {
  const order = state.images.map((_, index) => (from + index) % state.images.length);
  const open = order.find((index) => !isDone(state.images[index]));
  return open === undefined ? Math.min(from, state.images.length - 1) : open;
}

async function go(index) {
  current = (index + state.images.length) % state.images.length;
  chosen = new Set(state.images[current].labels);
  typed = "";
  at("guess").textContent = "";
  at("given").textContent = "";
  zoom = { scale: 1, x: 0, y: 0 };
  still = 0;
  draw();
  stills = (await ask(`stills/${current}`)).names;
  draw();
}

const address = (image, which) => `still/${image}/${which}?token=${encodeURIComponent(token)}`;

function draw() {
  const done = state.images.filter(isDone).length;
  const total = state.images.length;
  const finished = done === total ? " All images are labelled: close this page and stop vladapt label with Ctrl-C." : "";
  at("progress").textContent = `Image ${current + 1} of ${total}, ${done} done.${finished}`;
  at("bar").value = done / total;
  const shown = address(current, still);
  if (at("picture").getAttribute("src") !== shown) at("picture").src = shown;
  at("still").textContent = stills.length > 1 ? stills[still] : "";
  at("next-still").hidden = stills.length < 2;
  at("picture").style.transform = `translate(${zoom.x}px, ${zoom.y}px) scale(${zoom.scale})`;
  [...at("classes").children].forEach((button, index) => {
    button.setAttribute("aria-pressed", String(chosen.has(state.classes[index])));
  });
  const answer = state.images[current].answer;
  document.querySelector('[data-key="s"]').setAttribute("aria-pressed", String(answer === "not sure"));
  document.querySelector('[data-key="x"]').setAttribute("aria-pressed", String(answer === "none of these"));
  at("typed").textContent = typed ? ` (${typed}…)` : "";
}

async function save(labels, answer) {
  await ask("answer", { image: current, labels, answer });
  state.images[current] = { labels, answer };
  await go(firstOpen((current + 1) % state.images.length));
}

async function choose(index) {
  const name = state.classes[index];
  if (!state.several) return save([name], "");
  chosen.has(name) ? chosen.delete(name) : chosen.add(name);
  draw();
}

async function digit(key) {
  typed += key;
  if (typed.length < String(state.classes.length).length) return draw();
  const index = Number(typed) - 1;
  typed = "";
  if (index >= 0 && index < state.classes.length) return choose(index);
  draw();
}

async function undo() {
  const { image } = await ask("undo", {});
  if (image === null) return;
  state.images[image] = { labels: [], answer: "" };
  await go(image);
}

async function guess() {
  const { guess, confidence, given } = await ask(`guess/${current}`);
  at("guess").textContent = guess ? `The model's guess: ${guess} (${Math.round(100 * confidence)} %)` : "No guess.";
  at("given").textContent = given ? `Current label: ${given}` : "";
}

function move(x, y) {
  if (zoom.scale > 1) {
    zoom.x += x;
    zoom.y += y;
  }
  draw();
}

function scale(by) {
  zoom.scale = Math.min(16, Math.max(1, zoom.scale * by));
  if (zoom.scale === 1) zoom.x = zoom.y = 0;
  draw();
}

function view(step) {
  still = (still + step + stills.length) % stills.length;
  draw();
}

const KEYS = {
  s: () => save([], "not sure"),
  x: () => save([], "none of these"),
  Backspace: undo,
  g: guess,
  n: () => go(current + 1),
  p: () => go(current - 1),
  w: () => view(1),
  W: () => view(-1),
  "+": () => scale(1.5),
  "=": () => scale(1.5),
  "-": () => scale(1 / 1.5),
  r: () => scale(0),
  ArrowLeft: () => move(60, 0),
  ArrowRight: () => move(-60, 0),
  ArrowUp: () => move(0, 60),
  ArrowDown: () => move(0, -60),
  Enter: () => (state.several && chosen.size ? save(state.classes.filter((name) => chosen.has(name)), "") : draw()),
};

function then(step) {
  if (ended || state === null) return;
  work = work.then(step).then(
    () => undefined,
    (error) => show(error),
  );
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || state === null) return;
  const step = /^[0-9]$/.test(event.key) ? () => digit(event.key) : KEYS[event.key];
  if (!step) return;
  event.preventDefault(); // Enter on a button would press it too
  then(async () => {
    await step();
    show(null);
  });
});

document.querySelectorAll("[data-key]").forEach((button) => {
  button.addEventListener("click", () => {
    button.blur();
    then(async () => {
      await KEYS[button.dataset.key]();
      show(null);
    });
  });
});

at("frame").addEventListener("wheel", (event) => {
  event.preventDefault();
  then(() => scale(event.deltaY < 0 ? 1.2 : 1 / 1.2));
}, { passive: false });

addEventListener("pagehide", () => {
  const gone = new Blob([JSON.stringify({ page })], { type: "application/json" });
  navigator.sendBeacon(`leave?token=${encodeURIComponent(token)}`, gone);
});

start();
