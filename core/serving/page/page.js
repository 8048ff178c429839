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
  const several = model.multilabel ? "several labels per image" : "one label per image";
  const calibrated = model.coverages.length ? "" : " Its confidences are not calibrated.";
  const kept = model.labelled ? "" : " It keeps none of the images that it learned from, so it cannot show the nearest ones.";
  at("about").textContent = `${model.adapter}, ${model.class_names.length} classes, ${several}.${calibrated}${kept}`;
  for (const share of model.coverages) at("coverage").append(new Option(`${Math.round(100 * share)} %`, share));
  at("sets").hidden = !model.coverages.length;
  if (model.coverages.includes(0.9)) at("coverage").value = "0.9";
}

function add(files) {
  show("");
  for (const file of files) {
    const card = made("li");
    const picture = made("img");
    picture.alt = "";
    picture.src = URL.createObjectURL(file);
    picture.addEventListener("error", () => { picture.hidden = true; }); // a format that browsers do not show
    picture.addEventListener("load", () => URL.revokeObjectURL(picture.src));
    const answer = made("div", "answer");
    answer.append(made("p", "waiting", "Waiting …"));
    card.append(picture, made("p", "file", file.name), answer);
    at("answers").prepend(card);
    queue.push({ file, answer });
  }
  next();
}

function next() {
  while (running < AT_ONCE && queue.length) {
    running += 1;
    const { file, answer } = queue.shift();
    ask(file).then((rows) => fill(answer, rows), (error) => {
      answer.replaceChildren(made("p", "error", error.message));
    }).finally(() => {
      running -= 1;
      next();
    });
  }
}

async function ask(file) {
  const options = new URLSearchParams();
  if (model.labelled) options.set("nearest", Math.min(3, model.labelled));
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
at("clear").addEventListener("click", () => at("answers").replaceChildren());
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
