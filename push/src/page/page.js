// The page that the server brings along: one WebSocket, one projection at a time.
"use strict";

const ROWS_SHOWN_MAX = 500;
const SECONDS_SHOWN = 60;
const RETRY_MAX_MS = 10_000;

const at = (id) => document.getElementById(id);
let socket = null;
let retries = 0;
let half = []; // messages of a diff whose last one has not come
let heard = Date.now(); // when the server last said anything
let heartbeat = 15_000;
let subscription = 0; // grows with each choice, so that late messages of the last one are told apart
let chosen = null; // name of the projection
let shape = null; // its columns, key and order
let rows = new Map(); // by the JSON of the key, or of the row: { row, count }
let changed = new Map(); // what to flash at the next drawing: key to the row before
let isDrawing = false;
const seconds = []; // { changes, latencies } of the last minute, newest last

async function start() {
  const { projections } = await (await fetch("/v1/projections")).json();
  const list = at("projections");
  list.replaceChildren(...projections.map((projection) => {
    const button = document.createElement("button");
    button.textContent = projection.name;
    button.title = projection.description ?? "";
    button.addEventListener("click", () => { location.hash = encodeURIComponent(projection.name); });
    const item = document.createElement("li");
    item.append(button);
    return item;
  }));
  const choose = () => {
    let wanted = "";
    try { wanted = decodeURIComponent(location.hash.slice(1)); } catch { /* not a name */ }
    const projection = projections.find((it) => it.name === wanted) ?? projections[0];
    if (!projection) return;
    chosen = projection.name;
    at("title").textContent = projection.name;
    at("description").textContent = projection.description ?? "";
    for (const button of list.querySelectorAll("button")) button.setAttribute("aria-current", String(button.textContent === chosen));
    subscribe();
  };
  addEventListener("hashchange", choose);
  choose();
  connect();
  setInterval(tick, 1000);
  tick();
}

function connect() {
  show("connecting", "connecting");
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/v1/socket`);
  socket.onopen = () => { retries = 0; show("live", "live"); subscription = 0; subscribe(); };
  heard = Date.now();
  socket.onmessage = (event) => { heard = Date.now(); receive(JSON.parse(event.data)); };
  socket.onclose = () => {
    // Full jitter, so that a thousand pages do not come back at the same moment.
    const wait = Math.random() * Math.min(RETRY_MAX_MS, 500 * 2 ** retries++);
    show("lost", `connection lost, trying again in ${(wait / 1000).toFixed(1)} s`);
    setTimeout(connect, wait);
  };
}

function subscribe() {
  if (socket?.readyState !== WebSocket.OPEN || chosen === null) return;
  if (subscription > 0) socket.send(JSON.stringify({ op: "unsubscribe", id: String(subscription) }));
  subscription += 1;
  rows = new Map(); shape = null; problem(null);
  socket.send(JSON.stringify({ op: "subscribe", id: String(subscription), projection: chosen }));
}

function receive(message) {
  if (message.epoch !== undefined) {
    at("epoch").textContent = message.epoch;
    at("position").textContent = Object.values(message.position).join(" ") || "–";
  }
  if (message.op === "welcome") heartbeat = message.heartbeat_ms;
  const isOurs = message.id === undefined || message.id === String(subscription);
  if (message.op === "image" && isOurs) {
    if (message.columns) { shape = message; half = []; head(); problem(null); if (!message.resumed) rows = new Map(); }
    for (const row of message.rows) {
      const key = keyOf(row);
      rows.set(key, { row, count: (shape.key ? 0 : rows.get(key)?.count ?? 0) + 1 });
    }
    apply(message);
    changed.clear();
    draw();
  } else if (message.op === "diff") {
    half.push(...message.diffs);
    if (!message.last) return;
    const latency = Date.now() - Date.parse(message.commit_time);
    for (const diff of half.splice(0)) {
      if (diff.id !== String(subscription) || !shape) continue;
      apply(diff);
      const second = seconds.at(-1);
      second.changes += (diff.upsert?.length ?? 0) + (diff.delete?.length ?? 0) + (diff.count?.length ?? 0);
      second.latencies.push(latency);
    }
    draw();
  } else if (message.op === "error" && isOurs) {
    problem(message.message);
  }
}

function apply({ upsert = [], delete: deletes = [], count = [] }) {
  for (const key of deletes) rows.delete(JSON.stringify(key));
  for (const row of upsert) {
    const key = keyOf(row);
    changed.set(key, rows.get(key)?.row ?? null);
    rows.set(key, { row, count: 1 });
  }
  for (const [by, row] of count) {
    const key = keyOf(row);
    const now = (rows.get(key)?.count ?? 0) + by;
    if (now > 0) { changed.set(key, null); rows.set(key, { row, count: now }); } else rows.delete(key);
  }
}

function keyOf(row) {
  if (!shape.key) return JSON.stringify(row);
  return JSON.stringify(shape.key.map((name) => row[shape.columns.findIndex((column) => column.name === name)]));
}

const isNumber = (column) => /^(smallint|integer|bigint|numeric|real|double)/.test(column.type) && !column.type.endsWith("[]");

function head() {
  at("head").replaceChildren(...shape.columns.map((column) => {
    const cell = document.createElement("th");
    cell.textContent = column.name;
    const type = document.createElement("small");
    type.textContent = column.type;
    cell.append(type);
    cell.classList.toggle("number", isNumber(column));
    return cell;
  }));
}

function draw() {
  if (isDrawing) return;
  isDrawing = true;
  requestAnimationFrame(() => { isDrawing = false; if (shape) drawRows(); });
}

function compare(a, b, isNumeric) {
  if (a === b) return 0;
  if (a === null) return 1;
  if (b === null) return -1;
  return isNumeric ? Number(a) - Number(b) : String(a) < String(b) ? -1 : 1;
}

function drawRows() {
  const order = (shape.order.length ? shape.order : (shape.key ?? []).map((column) => ({ column, descending: false })))
    .map(({ column, descending }) => ({ i: shape.columns.findIndex((it) => it.name === column), sign: descending ? -1 : 1 }));
  const sorted = [...rows.entries()].sort(([, a], [, b]) => {
    for (const { i, sign } of order) {
      const difference = sign * compare(a.row[i], b.row[i], isNumber(shape.columns[i]));
      if (difference !== 0) return difference;
    }
    return 0;
  });
  const body = at("rows");
  const before = new Map([...body.children].map((line) => [line.dataset.key, line]));
  const lines = [];
  for (const [key, { row, count }] of sorted) {
    if (lines.length >= ROWS_SHOWN_MAX) break;
    let line = before.get(key);
    if (!line || changed.has(key)) {
      const old = changed.get(key);
      line = document.createElement("tr");
      line.dataset.key = key;
      row.forEach((value, i) => {
        const cell = document.createElement("td");
        const text = value === null ? "NULL" : typeof value === "object" ? JSON.stringify(value) : String(value);
        cell.textContent = i === 0 && count > 1 ? `${text} ×${count}` : text;
        cell.title = text;
        cell.classList.toggle("number", isNumber(shape.columns[i]));
        cell.classList.toggle("null", value === null);
        cell.classList.toggle("changed", changed.has(key) && JSON.stringify(old?.[i]) !== JSON.stringify(value));
        line.append(cell);
      });
    }
    lines.push(line);
  }
  body.replaceChildren(...lines);
  changed.clear();
  at("count").textContent = rows.size > ROWS_SHOWN_MAX ? `${rows.size} rows, the first ${ROWS_SHOWN_MAX} shown` : `${rows.size} rows`;
}

const median = (numbers) => numbers.length ? [...numbers].sort((a, b) => a - b)[numbers.length >> 1] : null;

function tick() {
  // A socket that a sleep or a network has cut says nothing: two heartbeats missed is the end of it.
  if (socket?.readyState === WebSocket.OPEN && Date.now() - heard > 2 * heartbeat) {
    socket.onclose = socket.onmessage = null;
    socket.close();
    connect();
  }
  const last = seconds.at(-1);
  if (last) {
    at("rate").textContent = last.changes;
    const latency = median(last.latencies);
    if (latency !== null) at("latency").textContent = `${Math.max(0, latency)} ms`;
  }
  seconds.push({ changes: 0, latencies: [] });
  if (seconds.length > SECONDS_SHOWN) seconds.shift();
  drawChart();
}

function drawChart() {
  const canvas = at("chart");
  const scale = devicePixelRatio || 1;
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  canvas.width = width * scale; canvas.height = height * scale;
  const paint = canvas.getContext("2d");
  paint.scale(scale, scale);
  const style = getComputedStyle(document.documentElement);
  const step = width / SECONDS_SHOWN;
  const done = seconds.slice(0, -1);
  const x = (i) => width - (done.length - i) * step;
  const most = Math.max(1, ...done.map((second) => second.changes));
  paint.fillStyle = style.getPropertyValue("--accent");
  done.forEach(({ changes }, i) => { const tall = (changes / most) * (height - 18); paint.fillRect(x(i), height - tall, Math.max(1, step - 2), tall); });
  const latencies = done.map((second) => median(second.latencies));
  const slowest = Math.max(1, ...latencies.filter((latency) => latency !== null));
  paint.strokeStyle = style.getPropertyValue("--warm");
  paint.lineWidth = 2;
  paint.beginPath();
  latencies.forEach((latency, i) => { if (latency !== null) paint.lineTo(x(i) + step / 2, height - 2 - (Math.max(0, latency) / slowest) * (height - 20)); });
  paint.stroke();
  paint.font = "11px system-ui, sans-serif";
  paint.fillStyle = style.getPropertyValue("--quiet");
  paint.fillText(`${most}/s`, 6, 12);
  paint.fillText(`${slowest} ms`, 60, 12);
}

function show(state, text) { at("connection").dataset.state = state; at("connection").textContent = text; }
function problem(text) { at("problem").hidden = text === null; at("problem").textContent = text ?? ""; }

start().catch((error) => problem(`the list of projections could not be read: ${error.message}`));
