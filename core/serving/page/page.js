"use strict";

const token = new URLSearchParams(location.search).get("token") || "";
const headers = token ? { Authorization: `Bearer ${token}` } : {};
const AT_ONCE = 4;

const at = (id) => document.getElementById(id);
const queue = []; // of {file, card}
let running = 0;
let model = null;

function show(text) {
  at("message").textContent = text || "";
  at("message").hidden = !text;
}

function made(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

const short = (number) => Number(number.toPrecision(4)).toLocaleString("en");
const counted = (number, what) => `${number} ${what}${number === 1 ? "" : "s"}`;
const percent = (share) => `${(100 * share).toFixed(1)} %`;

async function start() {
  try {
    const response = await fetch("model", { headers });
    model = await response.json();
    if (!response.ok) throw new Error(model.error);
  } catch (error) {
    show(error.message);
    return;
  }
  at("name").textContent = model.run;
  document.title = model.run;
  if (model.column !== undefined) {
    at("about").textContent = `${model.adapter}, a number per image: ${model.column}.`;
    return;
  }
  if (finds()) return showFinder();
  const several = model.multilabel ? "several labels per image" : "one label per image";
  const calibrated = model.coverages.length ? "" : " Its confidences are not calibrated.";
  const kept = model.labelled ? "" : " It keeps none of the images that it learned from, so it cannot show the nearest ones.";
  at("about").textContent = `${model.adapter}, ${model.class_names.length} classes, ${several}.${calibrated}${kept}`;
  for (const share of model.coverages) at("coverage").append(new Option(`${Math.round(100 * share)} %`, share));
  at("sets").hidden = !model.coverages.length;
  if (model.coverages.includes(0.9)) at("coverage").value = "0.9";
}

/* Whether the model finds things, and is no classifier. */
const finds = () => model.coverages === undefined && model.column === undefined;

function showFinder() {
  const names = model.any_names ? "Any names may be asked for." : "Some of them may be asked for.";
  const known = model.score === null && model.shows.length ? "" : `, ${counted(model.class_names.length, "name")}. ${names}`;
  at("about").textContent = `${model.adapter} (${model.task})${known}`;
  at("names").hidden = !model.options.includes("classes");
  at("classes").placeholder = model.class_names.join(", ");
  at("shown").hidden = !model.shows.length;
  at("showing").hidden = !model.shows.length;
  at("showing").textContent = howToShow();
  at("scores").hidden = model.score === null;
  at("score").value = model.score ?? 0;
  showLeast();
}

function howToShow() {
  const keys = "By keys, on the picture: arrows move a cross, with Shift by one pixel; b begins and ends a box";
  if (!model.shows.includes("points")) {
    return `Drag a box around an example; with Shift, around what is not meant. ${keys}, Shift+b where it is not meant.`;
  }
  return "Drag a box around a thing, or click on it. More clicks belong to the same thing, with Shift beside it. "
    + `${keys}, Enter is a click.`;
}

function showLeast() {
  at("least").textContent = Number(at("score").value).toFixed(2);
}

function add(files) {
  show("");
  for (const file of files) {
    const card = made("li");
    const picture = made("img");
    picture.alt = "";
    picture.src = URL.createObjectURL(file);
    picture.addEventListener("error", () => { picture.hidden = true; }); // a format that browsers do not show
    const answer = made("div", "answer");
    answer.append(made("p", "waiting", "Waiting …"));
    card.append(picture, made("p", "file", file.name), answer);
    at("answers").prepend(card);
    queue.push({ file, card, picture, answer });
  }
  next();
}

function next() {
  while (running < AT_ONCE && queue.length) {
    running += 1;
    const { file, card, picture, answer } = queue.shift();
    const needed = finds() && model.shows.length && model.score === null; // to be shown something
    (needed ? Promise.resolve([NOTHING]) : ask(file)).then((rows) => {
      if (finds()) fillFound(file, card, picture, answer, rows);
      else fill(answer, rows);
    }, (error) => {
      answer.replaceChildren(made("p", "error", error.message));
    }).finally(() => {
      running -= 1;
      next();
    });
  }
}

async function ask(file, shown = []) {
  const options = new URLSearchParams();
  if (shown.length) options.set("prompts", JSON.stringify(shown));
  if (model.labelled) options.set("nearest", Math.min(3, model.labelled));
  if (at("classes").value.trim()) options.set("classes", at("classes").value);
  if (at("coverage").value) options.set("coverage", at("coverage").value);
  const form = new FormData();
  form.append("files", file, file.name);
  for (;;) {
    let response;
    try {
      response = await fetch(`predict?${options}`, { method: "POST", headers, body: form });
    } catch {
      throw new Error("The server does not answer: it has stopped, or the picture is too large.");
    }
    const said = await response.json();
    if (response.ok) return said.predictions;
    if (response.status !== 503) throw new Error(said.error);
    const seconds = Number(response.headers.get("Retry-After")) || 1;
    await new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  }
}

function fill(answer, rows) {
  answer.replaceChildren();
  for (const row of rows) {
    if (rows.length > 1) answer.append(made("p", "file", row.id));
    if (row.number !== undefined) {
      answer.append(made("p", "label", `${row.column}: ${short(row.number)}`));
      const share = Math.round(100 * model.coverage);
      if (row.low !== null) answer.append(made("p", "set", `${share} % interval: ${short(row.low)} to ${short(row.high)}`));
      continue;
    }
    const names = row.label === undefined ? row.labels : [row.label];
    answer.append(made("p", "label", names.length ? names.join(", ") : "none of the labels"));
    if (row.unlike) {
      answer.append(made("p", "unlike", "Unlike the images that the model learned from: its answer means little."));
    }
    const table = made("table", "classes");
    for (const each of row.top) {
      const line = table.insertRow();
      const cell = line.insertCell();
      cell.textContent = each.class;
      const bar = made("progress");
      bar.max = 1;
      bar.value = each.probability;
      cell.append(bar);
      line.insertCell().textContent = percent(each.probability);
    }
    answer.append(table);
    if (row.set) answer.append(made("p", "set", `Set: ${row.set.length ? row.set.join(", ") : "empty"}`));
    if (row.explanation) answer.append(nearest(row.explanation.examples));
  }
}

/* Redraws a card, by its canvas. */
const cards = new Map();

/* The row of a picture on which nothing is shown yet. */
const NOTHING = { boxes: [], scores: [], labels: [], masks: [], summary: "" };

function fillFound(file, card, picture, answer, rows) {
  const canvas = made("canvas"), shown = [], cursor = { seen: false, at: null, from: null };
  const redraw = () => {
    showFound(canvas, picture, answer, rows);
    if (!canvas.hidden) drawShown(canvas, picture, shown, cursor);
  };
  const turn = () => {
    card.classList.toggle("wide");
    redraw();
  };
  canvas.setAttribute("role", model.shows.length ? "application" : "img");
  canvas.tabIndex = 0;
  picture.after(canvas);
  if (model.shows.length) {
    card.classList.add("wide", "shows");
    canvas.setAttribute("aria-describedby", "showing");
    letShow(canvas, picture, answer, shown, cursor, redraw, async () => {
      redraw();
      const now = JSON.stringify(shown);
      try {
        const said = shown.length || model.score !== null ? await ask(file, shown) : [NOTHING];
        if (now !== JSON.stringify(shown)) return; // more was shown meanwhile
        rows = said;
        redraw();
      } catch (error) {
        answer.replaceChildren(made("p", "error", error.message));
      }
    });
  } else {
    canvas.title = "Larger, or smaller";
    canvas.addEventListener("click", turn);
    canvas.addEventListener("keydown", (event) => {
      if (event.key === "Enter") turn();
    });
  }
  cards.set(canvas, redraw);
  if (picture.complete) redraw();
  picture.addEventListener("load", redraw);
  picture.addEventListener("error", redraw);
}

const DRAGGED = 4; // pixels of the screen, from which on a click is a box

/* Lets a user show things on a picture by the mouse or by keys, which move a cursor; `changed` is called after each. */
function letShow(canvas, picture, answer, shown, cursor, redraw, changed) {
  const named = () => at("name-shown").value.trim() || undefined;
  const pixel = (event) => [
    Math.round((10 * event.offsetX * picture.naturalWidth) / canvas.clientWidth) / 10,
    Math.round((10 * event.offsetY * picture.naturalHeight) / canvas.clientHeight) / 10,
  ];
  let from = null, another = false;
  const add = (start, end, meant) => {
    const how = { name: named(), meant, points: model.shows.includes("points"), another };
    if (!addShown(shown, start, end, how)) return;
    another = false;
    changed();
  };
  canvas.addEventListener("pointerdown", (event) => {
    Object.assign(cursor, { seen: false, at: pixel(event), from: null });
    from = { pixel: pixel(event), x: event.offsetX, y: event.offsetY };
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!from) return;
    const far = Math.min(Math.abs(event.offsetX - from.x), Math.abs(event.offsetY - from.y)) >= DRAGGED;
    const start = from.pixel;
    from = null;
    add(start, far ? pixel(event) : null, !event.shiftKey);
  });
  canvas.addEventListener("keydown", (event) => {
    const told = movedBy(cursor, event, [picture.naturalWidth, picture.naturalHeight]);
    if (told === undefined) return;
    event.preventDefault();
    cursor.seen = true;
    redraw();
    if (told) add(...told, !event.shiftKey);
  });
  canvas.addEventListener("focus", () => {
    cursor.seen = canvas.matches(":focus-visible");
    cursor.at ??= [picture.naturalWidth / 2, picture.naturalHeight / 2];
    redraw();
  });
  canvas.addEventListener("blur", () => {
    Object.assign(cursor, { seen: false, from: null });
    redraw();
  });
  const buttons = made("p", "showing"), next = made("button", "", "Next thing"), undo = made("button", "", "Take back");
  next.type = undo.type = "button";
  next.hidden = !model.shows.includes("points");
  next.addEventListener("click", () => { another = true; });
  undo.addEventListener("click", () => {
    takeBack(shown);
    changed();
  });
  buttons.append(next, undo);
  answer.before(buttons);
}

function showFound(canvas, picture, answer, rows) {
  const least = model.score === null ? 0 : Number(at("score").value);
  const shown = rows.map((row) => thingsOf(row, least));
  const names = [...new Set([...model.class_names, ...shown.flat().map((thing) => thing.name)])];
  const drawn = picture.naturalWidth > 0 && rows.length === 1; // a file of several pictures is not shown as one
  canvas.hidden = !drawn;
  picture.hidden = drawn || !picture.naturalWidth;
  if (drawn) drawThings(canvas, picture, shown[0], names);
  canvas.setAttribute("aria-label", rows.map((row) => row.summary).join("; "));
  answer.replaceChildren();
  rows.forEach((row, place) => {
    if (rows.length > 1) answer.append(made("p", "file", row.id));
    answer.append(tableOf(row, shown[place], names));
  });
}

/* A line for each name: how often and how sure, or which share of the picture. */
function tableOf(row, things, names) {
  const lines = new Map(Object.entries(row.shares ?? {}).map(([name, share]) => [name, [1, share]]));
  for (const { name, score } of row.shares ? [] : [...things].reverse()) {
    const [count, best] = lines.get(name) ?? [0, score];
    lines.set(name, [count + 1, best]);
  }
  if (!lines.size) return made("p", "label", "nothing found");
  const table = made("table", "classes");
  for (const [name, [count, value]] of lines) {
    const line = table.insertRow(), cell = line.insertCell(), swatch = made("span", "swatch");
    swatch.style.background = name === "background" && row.shares ? "transparent" : colourOf(name, names);
    cell.append(swatch, count > 1 ? `${count} ${name}` : name);
    line.insertCell().textContent = row.shares ? percent(value) : value.toFixed(2);
  }
  return table;
}

function nearest(examples) {
  const part = made("div", "nearest", "Nearest images that the model learned from:");
  const list = made("ul");
  for (const each of examples) {
    const names = each.labels.length ? each.labels.join(", ") : "none of the labels";
    list.append(made("li", "", `${names} (${each.id}, similarity ${each.similarity.toFixed(2)})`));
  }
  part.append(list);
  return part;
}

at("files").addEventListener("change", () => {
  add(at("files").files);
  at("files").value = "";
});
at("clear").addEventListener("click", () => {
  for (const picture of document.querySelectorAll("#answers img")) URL.revokeObjectURL(picture.src);
  at("answers").replaceChildren();
  cards.clear();
});
at("score").addEventListener("input", () => {
  showLeast();
  for (const redraw of cards.values()) redraw();
});
addEventListener("resize", () => {
  for (const redraw of cards.values()) redraw();
});
for (const name of ["dragenter", "dragover"]) {
  addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.add("over");
  });
}
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("drop").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  at("drop").classList.remove("over");
  add(event.dataTransfer.files);
});

start();
