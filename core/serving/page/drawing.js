"use strict";

const GOLDEN_ANGLE = 137.508; // degrees between the hues of neighbours in a list
const CANVAS_SIDE = 2048; // largest that is drawn
const MASK_ALPHA = 0.45;

const hueOf = (name, names) => (Math.max(0, names.indexOf(name)) * GOLDEN_ANGLE + 10) % 360;
const colourOf = (name, names) => `hsl(${hueOf(name, names)} 85% 42%)`;

/* The lengths of the runs of a mask as COCO compresses them: from the third on as the difference to the one two before,
   in groups of 5 bits, the lowest first. */
function runsOf(text) {
  const runs = [];
  for (let at = 0; at < text.length; ) {
    let value = 0, shift = 0, code;
    do {
      code = text.charCodeAt(at++) - 48;
      value += (code & 31) * 2 ** shift;
      shift += 5;
    } while (code & 32 && at < text.length);
    if (code & 16) value -= 2 ** shift;
    runs.push(runs.length > 2 ? value + runs[runs.length - 2] : value);
  }
  return runs;
}

/* Calls `inside(place)` for each pixel of a canvas of that size, counted row by row, that a mask covers. */
function eachInside(mask, width, height, inside) {
  const [rows, columns] = mask.size, runs = runsOf(mask.counts), covered = new Uint8Array(height);
  let run = 0, end = runs[0], last = -1;
  for (let x = 0; x < width; x++) {
    const column = Math.floor(((x + 0.5) * columns) / width);
    for (let y = 0; y < height && column !== last; y++) { // runs are read once, whatever is drawn larger
      const pixel = column * rows + Math.floor(((y + 0.5) * rows) / height);
      while (end <= pixel && run < runs.length - 1) end += runs[++run];
      covered[y] = run % 2;
    }
    last = column;
    for (let y = 0; y < height; y++) if (covered[y]) inside(y * width + x);
  }
}

/* What of a row is shown: things with a name, and a score, a box or a mask where it has them; the surest last. */
function thingsOf(row, least) {
  if (row.boxes) {
    const places = row.scores.map((_, place) => place).filter((place) => row.scores[place] >= least).reverse();
    return places.map((place) => ({
      name: row.labels[place], score: row.scores[place], box: row.boxes[place], mask: row.masks?.[place],
    }));
  }
  return Object.entries(row.masks).filter(([name]) => name !== "background").map(([name, mask]) => ({ name, mask }));
}

/* Draw a picture with what was found in it; `names` give the colours. */
function drawThings(canvas, picture, things, names) {
  const { naturalWidth: across, naturalHeight: down } = picture;
  const wide = Math.max(1, Math.round(canvas.clientWidth * (window.devicePixelRatio || 1)));
  const scale = Math.min(wide / across, CANVAS_SIDE / across, CANVAS_SIDE / down);
  const width = Math.max(1, Math.round(across * scale)), height = Math.max(1, Math.round(down * scale));
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(picture, 0, 0, width, height);
  paintMasks(context, things, names, width, height);
  const unit = width / Math.max(1, canvas.clientWidth);
  for (const thing of things) if (thing.box) outline(context, thing, names, width / across, height / down, unit);
}

function paintMasks(context, things, names, width, height) {
  if (!things.some((thing) => thing.mask)) return;
  const image = context.getImageData(0, 0, width, height), pixels = image.data;
  for (const thing of things) {
    if (!thing.mask) continue;
    const colour = channelsOf(hueOf(thing.name, names));
    eachInside(thing.mask, width, height, (place) => {
      for (let band = 0; band < 3; band++) {
        pixels[4 * place + band] += MASK_ALPHA * (colour[band] - pixels[4 * place + band]);
      }
    });
  }
  context.putImageData(image, 0, 0);
}

const isLight = (hue) => hue > 35 && hue < 200; // yellow to cyan, on which white is hard to read

/* Red, green and blue of `colourOf`. */
function channelsOf(hue) {
  const light = 0.42, amount = 0.85 * light;
  const channel = (number) => {
    const k = (number + hue / 30) % 12;
    return 255 * (light - amount * Math.max(-1, Math.min(k - 3, 9 - k, 1)));
  };
  return [channel(0), channel(8), channel(4)];
}

function outline(context, thing, names, alongX, alongY, unit) {
  const [x0, y0, x1, y1] = thing.box, colour = colourOf(thing.name, names);
  const left = x0 * alongX, top = y0 * alongY;
  context.strokeStyle = colour;
  context.lineWidth = 2 * unit;
  context.strokeRect(left, top, (x1 - x0) * alongX, (y1 - y0) * alongY);
  context.font = `600 ${12 * unit}px system-ui, sans-serif`;
  context.textBaseline = "top";
  const text = `${thing.name} ${thing.score.toFixed(2)}`, high = 16 * unit;
  const wide = context.measureText(text).width + 8 * unit;
  const x = Math.max(0, Math.min(left - unit, context.canvas.width - wide));
  const y = top - high >= 0 ? top - high : top;
  context.fillStyle = colour;
  context.fillRect(x, y, wide, high);
  context.fillStyle = isLight(hueOf(thing.name, names)) ? "#111" : "#fff";
  context.fillText(text, x + 4 * unit, y + 2 * unit);
}

/* Adds to what is shown on a picture: a box between two places, or a point at the first where there is no second. Points
   belong to the latest thing, unless it has another name or another thing is to begin. False where nothing was added. */
function addShown(shown, [x0, y0], to, { name, meant, points, another }) {
  const last = shown.at(-1);
  if (to) {
    const [x1, y1] = to, box = [Math.min(x0, x1), Math.min(y0, y1), Math.max(x0, x1), Math.max(y0, y1)];
    shown.push(points || meant ? { box, name } : { box, name, positive: false });
  } else if (points && last && last.name === name && !another) {
    (last.points ??= []).push([x0, y0]);
    (last.labels ??= []).push(Number(meant));
  } else if (points) {
    shown.push({ points: [[x0, y0]], labels: [Number(meant)], name });
  }
  return Boolean(to) || points;
}

/* Takes back the latest point, or the latest box. */
function takeBack(shown) {
  const last = shown.at(-1);
  if (last?.points?.length > (last?.box ? 0 : 1)) {
    last.points.pop();
    last.labels.pop();
  } else {
    shown.pop();
  }
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
const STEP = 0.02; // of the longer side, by an arrow key

/* What a key does with the cursor {at: [x, y], from: where a box began, or null} on a picture of a size: undefined where
   nothing, null where it moved or a box began or was given up, [start, end] of a box, and [start, null] of a point. */
function movedBy(cursor, { key, shiftKey, ctrlKey, altKey, metaKey }, [width, height]) {
  if (ctrlKey || altKey || metaKey) return undefined;
  const [x, y] = (cursor.at ??= [width / 2, height / 2]);
  if (ARROWS[key]) {
    const by = shiftKey ? 1 : Math.max(1, Math.round(STEP * Math.max(width, height)));
    const [right, down] = ARROWS[key];
    cursor.at = [Math.min(Math.max(x + by * right, 0), width), Math.min(Math.max(y + by * down, 0), height)];
    return null;
  }
  const { from } = cursor, isBox = key.toLowerCase() === "b", ends = from && (isBox || key === "Enter");
  if (key === "Escape" && from) cursor.from = null;
  else if (ends && (from[0] === x || from[1] === y)) return null; // no area yet
  else if (ends) cursor.from = null;
  else if (isBox) cursor.from = [x, y];
  else if (key !== "Enter") return undefined;
  if (ends) return [from, [x, y]];
  return key === "Enter" ? [[x, y], null] : null;
}

/* Boxes that a user drew, dashed, and points, green on the thing and red beside it; red boxes are not meant. And the
   cursor of the keys, with the box that has begun. */
function drawShown(canvas, picture, shown, cursor) {
  const context = canvas.getContext("2d"), scale = canvas.width / picture.naturalWidth;
  const unit = canvas.width / Math.max(1, canvas.clientWidth);
  context.lineWidth = 2 * unit;
  for (const thing of shown) {
    context.strokeStyle = thing.positive === false ? "#b3261e" : "#fff";
    context.setLineDash([6 * unit, 4 * unit]);
    if (thing.box) {
      const [x0, y0, x1, y1] = thing.box.map((each) => each * scale);
      context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    }
    context.setLineDash([]);
    (thing.points ?? []).forEach(([x, y], place) => {
      context.beginPath();
      context.arc(x * scale, y * scale, 5 * unit, 0, 2 * Math.PI);
      context.fillStyle = thing.labels[place] ? "#1f8f3a" : "#b3261e";
      context.fill();
      context.strokeStyle = "#fff";
      context.stroke();
    });
  }
  if (!cursor.seen) return;
  const [x, y] = cursor.at.map((each) => each * scale), arm = 9 * unit;
  for (const [colour, wide] of [["#fff", 4], ["#1f5fbf", 2]]) { // to be seen on any ground
    context.strokeStyle = colour;
    context.lineWidth = wide * unit;
    context.beginPath();
    context.moveTo(x - arm, y);
    context.lineTo(x + arm, y);
    context.moveTo(x, y - arm);
    context.lineTo(x, y + arm);
    context.stroke();
    if (cursor.from) context.strokeRect(cursor.from[0] * scale, cursor.from[1] * scale, x - cursor.from[0] * scale, y - cursor.from[1] * scale);
  }
}
