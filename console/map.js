// The map of items: up to 100,000 points on a canvas, which is dragged, zoomed and asked by mouse, touch and keys.
// Points are written into the pixels of the canvas, which takes some milliseconds for 100,000 and needs no card.
"use strict";

function showMap(root, address, words, person) {
  const canvas = root.querySelector("canvas"), tip = root.querySelector(".t-tip"), legend = root.querySelector(".t-map-legend");
  const status = root.querySelector(".t-map-status"), draw = canvas.getContext("2d");
  const colours = ["#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#b8a700", "#7a4fbf"];
  const ordered = ["#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#d8c51b", "#fde725"]; // viridis, for ranges
  const rest = "#8a8a8a", parts = { history: "#0072b2", text: "#e69f00", social: "#009e73", whole: "" };
  let points = null, view = null, frame = 0, hidden = new Set(), near = -1, dragged = null, image = null, titles = new Map();

  function rgb(hex) {
    const n = parseInt(hex.slice(1), 16);
    return 0xff000000 | ((n & 255) << 16) | (n & 0xff00) | (n >> 16); // as pixels lie in memory
  }

  function colourOf(group) {
    const { groups, ranges } = points.head;
    return ranges ? ordered[Math.round((group * 7) / Math.max(1, groups.length - 1))] : colours[group % 8];
  }

  async function load() {
    const answer = await fetch(address);
    const body = await answer.arrayBuffer();
    if (!answer.ok) { status.textContent = new TextDecoder().decode(body); status.className = "t-failure"; return; }
    const size = new DataView(body).getUint32(0, true), head = JSON.parse(new TextDecoder().decode(new Uint8Array(body, 4, size)));
    const start = 4 + size, count = head.points, at = Math.ceil(start / 4) * 4;
    points = {
      head, count,
      places: new Float32Array(body, at, 2 * count),
      groups: new Uint8Array(body, at + 8 * count, count),
      ids: count ? new TextDecoder().decode(new Uint8Array(body, at + 9 * count)).split("\n") : [],
    };
    points.colours = Uint32Array.from({ length: 256 }, (_, group) => rgb(group < head.groups.length ? colourOf(group) : rest));
    sortByGroup();
    index();
    showLegend();
    fit();
    status.textContent = head.said;
    root.dataset.points = count;
  }

  function sortByGroup() { // those without a group first, so that they hide no other
    const { places, groups, ids, count } = points;
    const order = Uint32Array.from({ length: count }, (_, i) => i).sort((a, b) => groups[b] - groups[a]);
    points.places = Float32Array.from({ length: 2 * count }, (_, n) => places[2 * order[n >> 1] + (n & 1)]);
    points.groups = Uint8Array.from(order, (i) => groups[i]);
    points.ids = Array.from(order, (i) => ids[i]);
  }

  // A grid of the places, so that what lies below the mouse is found without looking at every point.
  function index() {
    const { places, count } = points, box = [Infinity, Infinity, -Infinity, -Infinity];
    for (let i = 0; i < count; i++) {
      box[0] = Math.min(box[0], places[2 * i]); box[2] = Math.max(box[2], places[2 * i]);
      box[1] = Math.min(box[1], places[2 * i + 1]); box[3] = Math.max(box[3], places[2 * i + 1]);
    }
    if (!count) box.splice(0, 4, -1, -1, 1, 1);
    const side = Math.max(1, Math.min(256, Math.round(Math.sqrt(count / 4))));
    const wide = (box[2] - box[0]) / side || 1, high = (box[3] - box[1]) / side || 1;
    const cells = new Map(), column = (x) => Math.min(side - 1, Math.max(0, Math.floor((x - box[0]) / wide)));
    const row = (y) => Math.min(side - 1, Math.max(0, Math.floor((y - box[1]) / high)));
    for (let i = 0; i < count; i++) {
      const key = row(places[2 * i + 1]) * side + column(places[2 * i]);
      if (cells.has(key)) cells.get(key).push(i); else cells.set(key, [i]);
    }
    points.box = box;
    points.around = function* (x, y, reach) {
      for (let r = row(y - reach); r <= row(y + reach); r++)
        for (let c = column(x - reach); c <= column(x + reach); c++) yield* cells.get(r * side + c) || [];
    };
  }

  function showLegend() {
    const names = [...points.head.groups, words.others], seen = new Set(points.groups);
    legend.replaceChildren();
    names.forEach((name, number) => {
      const last = number === names.length - 1, group = last ? 255 : number;
      if (!seen.has(group)) return;
      const label = document.createElement("label"), box = document.createElement("input"), dot = document.createElement("i");
      box.type = "checkbox";
      box.checked = true;
      dot.style.background = last ? rest : colourOf(number);
      label.append(box, dot, name);
      legend.append(label);
      box.addEventListener("change", () => { if (box.checked) hidden.delete(group); else hidden.add(group); paint(); });
    });
  }

  function fit() {
    const extra = person ? person.places.concat([person.origin]) : [], box = points.box.slice();
    for (const [x, y] of extra) {
      box[0] = Math.min(box[0], x); box[1] = Math.min(box[1], y); box[2] = Math.max(box[2], x); box[3] = Math.max(box[3], y);
    }
    const { width, height } = canvas.getBoundingClientRect();
    const scale = 0.92 * Math.min(width / (box[2] - box[0] || 1), height / (box[3] - box[1] || 1));
    view = { scale, x: (box[0] + box[2]) / 2, y: (box[1] + box[3]) / 2 };
    paint();
  }

  function paint() {
    if (!frame && points && view) frame = requestAnimationFrame(() => { frame = 0; render(); });
  }

  function render() {
    const began = performance.now(), ratio = window.devicePixelRatio || 1, { width, height } = canvas.getBoundingClientRect();
    const w = Math.max(1, Math.round(width * ratio)), h = Math.max(1, Math.round(height * ratio));
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    if (!image || image.width !== w || image.height !== h) image = draw.createImageData(w, h);
    const pixels = new Uint32Array(image.data.buffer);
    pixels.fill(0);
    const scale = view.scale * ratio, left = w / 2 - view.x * scale, top = h / 2 + view.y * scale;
    const radius = Math.round(ratio * (points.count > 20000 ? 1 : points.count > 2000 ? 1.5 : 3));
    const { places, groups, count, colours: ink } = points, some = hidden.size > 0;
    for (let i = 0; i < count; i++) {
      if (some && hidden.has(groups[i])) continue;
      const x = (left + places[2 * i] * scale + 0.5) | 0, y = (top - places[2 * i + 1] * scale + 0.5) | 0;
      if (x < radius || y < radius || x >= w - radius || y >= h - radius) continue;
      const colour = ink[groups[i]], end = (y + radius) * w + x + radius;
      for (let start = (y - radius) * w + x - radius; start < end; start += w)
        for (let pixel = start; pixel <= start + 2 * radius; pixel++) pixels[pixel] = colour;
    }
    draw.putImageData(image, 0, 0);
    draw.save();
    draw.scale(ratio, ratio);
    if (person) renderPerson();
    if (near >= 0) {
      const [x, y] = onScreen(places[2 * near], places[2 * near + 1]);
      draw.strokeStyle = getComputedStyle(root).color;
      draw.lineWidth = 2;
      draw.beginPath(); draw.arc(x, y, 7, 0, 7); draw.stroke();
    }
    draw.restore();
    root.dataset.paintMs = (performance.now() - began).toFixed(1);
  }

  function renderPerson() {
    const ink = getComputedStyle(root).color, from = onScreen(...person.origin);
    person.places.forEach((place, number) => {
      const to = onScreen(...place), kind = person.parts[number];
      draw.strokeStyle = draw.fillStyle = parts[kind] || ink;
      draw.lineWidth = kind === "whole" ? 3 : 2;
      draw.beginPath(); draw.moveTo(...from); draw.lineTo(...to); draw.stroke();
      draw.beginPath(); draw.arc(to[0], to[1], kind === "whole" ? 7 : 5, 0, 7); draw.fill();
      draw.font = "600 13px sans-serif";
      draw.lineWidth = 4; draw.strokeStyle = getComputedStyle(root.parentElement).backgroundColor;
      const right = to[0] > canvas.getBoundingClientRect().width - 120;
      draw.textAlign = right ? "right" : "left";
      draw.strokeText(person.names[number], to[0] + (right ? -10 : 10), to[1] + 4);
      draw.fillText(person.names[number], to[0] + (right ? -10 : 10), to[1] + 4);
    });
  }

  function onScreen(x, y) {
    const { width, height } = canvas.getBoundingClientRect();
    return [width / 2 + (x - view.x) * view.scale, height / 2 - (y - view.y) * view.scale];
  }

  function inSpace(x, y) {
    const { width, height } = canvas.getBoundingClientRect();
    return [(x - width / 2) / view.scale + view.x, (height / 2 - y) / view.scale + view.y];
  }

  function nearest(x, y) {
    const [px, py] = inSpace(x, y), reach = 9 / view.scale;
    let best = -1, least = reach * reach;
    for (const i of points.around(px, py, reach)) {
      const dx = points.places[2 * i] - px, dy = points.places[2 * i + 1] - py, far = dx * dx + dy * dy;
      if (far < least && !hidden.has(points.groups[i])) { least = far; best = i; }
    }
    return best;
  }

  async function point(x, y) {
    const found = nearest(x, y);
    if (found === near) return;
    near = found;
    canvas.style.cursor = near < 0 ? "grab" : "pointer";
    paint();
    tip.hidden = near < 0;
    if (near < 0) return;
    const id = points.ids[near], group = points.head.groups[points.groups[near]] || words.others;
    const [sx, sy] = onScreen(points.places[2 * near], points.places[2 * near + 1]);
    const tell = (title) => { tip.textContent = `${title ? title + " · " : ""}${id} · ${group}`; };
    tell(titles.get(id));
    tip.style.left = `${Math.min(sx + 12, canvas.getBoundingClientRect().width - 180)}px`;
    tip.style.top = `${sy + 12}px`;
    if (titles.has(id)) return;
    await new Promise((done) => setTimeout(done, 80)); // the mouse may only pass by
    if (points.ids[near] !== id) return;
    const answer = await fetch(`map/title?item=${encodeURIComponent(id)}`);
    if (answer.ok) titles.set(id, await answer.text());
    if (points.ids[near] === id) tell(titles.get(id));
  }

  function zoom(factor, x, y) {
    const [px, py] = inSpace(x, y);
    view.scale *= factor;
    const [qx, qy] = inSpace(x, y);
    view.x += px - qx; view.y += py - qy;
    paint();
  }

  function pan(dx, dy) { view.x -= dx / view.scale; view.y += dy / view.scale; paint(); }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (!view) return;
    canvas.setPointerCapture(event.pointerId);
    dragged = { at: place(event), moved: 0 };
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!view) return;
    const at = place(event);
    if (dragged) {
      dragged.moved += Math.abs(at[0] - dragged.at[0]) + Math.abs(at[1] - dragged.at[1]);
      pan(at[0] - dragged.at[0], at[1] - dragged.at[1]);
      dragged.at = at;
    } else point(...at);
  });
  canvas.addEventListener("pointerup", (event) => {
    const still = dragged && dragged.moved < 5;
    dragged = null;
    if (!still || !view) return;
    const found = nearest(...place(event));
    if (found >= 0) location.href = `items?item=${encodeURIComponent(points.ids[found])}`;
  });
  canvas.addEventListener("pointerleave", () => { near = -1; tip.hidden = true; paint(); });
  canvas.addEventListener("wheel", (event) => {
    if (!view) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 400), ...place(event));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    if (!view) return;
    const { width, height } = canvas.getBoundingClientRect(), middle = [width / 2, height / 2];
    const keys = {
      ArrowLeft: () => pan(40, 0), ArrowRight: () => pan(-40, 0), ArrowUp: () => pan(0, 40), ArrowDown: () => pan(0, -40),
      "+": () => zoom(1.3, ...middle), "=": () => zoom(1.3, ...middle), "-": () => zoom(1 / 1.3, ...middle), 0: fit,
      Enter: () => { if (near >= 0) location.href = `items?item=${encodeURIComponent(points.ids[near])}`; },
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
    if (event.key !== "Enter") point(...middle);
  });
  new ResizeObserver(paint).observe(canvas);
  root.mapView = { pan, zoom, render, onScreen, state: () => ({ points, view, near }) };
  load();
}
