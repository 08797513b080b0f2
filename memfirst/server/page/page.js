// The live page: two snapshots a second of /memfirst/stats, and a small chat. No library, nothing from elsewhere.
"use strict";
const $ = (id) => document.getElementById(id);
const COLOURS = { weights: 0, head: 1, experts: 2, kv_read: 3, state_read: 4, embedding: 5 };
const NAMES = { kv_read: "KV cache", state_read: "state",
  kv_requests: "requests", kv_kept: "kept prefixes", kv_free: "free" };
const MEMORY = { weights: 0, kv_requests: 3, kv_kept: 2, kv_free: -1, buffers: 5, state: 4 };
let key = "", last = null, speeds = [], seen = new Map(), messages = [], stopping = null;

const headers = () => (key ? { Authorization: "Bearer " + key } : {});
const fixed = (x, digits) => x.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });

function show(id, value, digits = 0) {
  const at = $(id);
  at.textContent = typeof value === "number" ? fixed(value, digits) : value;
  at.dataset.value = value;
}

function size(bytes) {
  if (bytes < 1e5) return `${fixed(bytes / 1e3, 1)} kB`;
  return bytes < 1e9 ? `${fixed(bytes / 1e6, 1)} MB` : `${fixed(bytes / 1e9, 2)} GB`;
}

function bar(id, parts, places) {
  const total = parts.reduce((sum, [, n]) => sum + n, 0) || 1;
  $(id).replaceChildren(...parts.map(([name, n]) => {
    const piece = document.createElement("span");
    piece.style.width = (100 * n) / total + "%";
    piece.style.background = places[name] < 0 ? "transparent" : `var(--c${places[name]})`;
    piece.title = `${NAMES[name] || name}: ${n.toLocaleString("en")} B`;
    return piece;
  }));
  $(id + "-legend").replaceChildren(...parts.map(([name, n]) => {
    const item = document.createElement("li"), dot = document.createElement("i");
    dot.style.background = places[name] < 0 ? "var(--line)" : `var(--c${places[name]})`;
    item.dataset.name = name;
    item.dataset.value = n;
    item.append(dot, `${NAMES[name] || name} ${size(n)}`);
    return item;
  }));
}

function age(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${fixed(seconds / 3600, 1)} h`;
}

function draw(stats) {
  show("model", stats.model);
  show("up", age(stats.up_s));
  show("state", stats.state === "ready" ? "healthy" : stats.state);
  show("waiting", stats.waiting);
  show("running", stats.live - stats.waiting);
  $("answers").textContent = stats.live - stats.waiting === 1 ? "answer" : "answers";
  if (!stats.memory) return;
  show("threads", stats.threads === 1 ? "1 thread" : `${stats.threads} threads`);
  const now = performance.now() / 1000;
  if (!last || stats.steps < last.stats.steps) last = { stats, now };
  if (now - last.now > 0.9) {
    const before = last.stats, busy = stats.step_seconds - before.step_seconds, read = {};
    let sum = 0;
    for (const [purpose, n] of Object.entries(stats.bytes)) {
      read[purpose] = n - (before.bytes[purpose] || 0);
      if (!purpose.endsWith("write")) sum += read[purpose];
    }
    const rows = stats.generated_rows - before.generated_rows, rate = rows / (now - last.now);
    show("rate", rate, rate < 10 ? 1 : 0);
    speeds = [...speeds, rate].slice(-120);
    const most = Math.max(1, ...speeds);
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    line.setAttribute("points", speeds.map((v, i) => `${(240 * i) / 119},${39 - (38 * v) / most}`).join(" "));
    $("history").replaceChildren(line);
    const bandwidth = busy > 0 ? sum / busy : 0;
    show("bandwidth", bandwidth / 1e9, 1);
    $("share-text").hidden = !stats.read_bandwidth;
    show("share", stats.read_bandwidth ? (100 * bandwidth) / stats.read_bandwidth : 0);
    show("ceiling", stats.read_bandwidth / 1e9, 1);
    if (rows > 0) {
      show("token-bytes", sum / rows / 1e6, 1);
      bar("bytes", Object.entries(read).filter(([p, n]) => n > 0 && !p.endsWith("write")).map(([p, n]) => [p, n / rows]), COLOURS);
    }
    last = { stats, now };
  }
  bar("memory", Object.entries(stats.memory).filter(([, n]) => n > 0), MEMORY);
  const free = stats.memory.kv_free + stats.memory.kv_kept;
  show("context-bytes", stats.context_bytes / 1e6, 1);
  show("fits", stats.context_bytes ? Math.floor(free / stats.context_bytes) : stats.sequences);
  rows(stats, now);
}

function rows(stats, now) {
  $("nobody").hidden = stats.requests.length > 0;
  const fresh = new Map();
  $("requests").replaceChildren(...stats.requests.map((r) => {
    const first = seen.get(r.number) || { now, generated: r.generated };
    fresh.set(r.number, first);
    const speed = now > first.now ? (r.generated - first.generated) / (now - first.now) : 0;
    const state = r.waiting ? "waits" : r.generated ? "writing" : "reading";
    const row = document.createElement("tr");
    for (const cell of [r.number, state, r.prompt, r.reused, r.generated, fixed(speed, 1), fixed(r.kv_bytes / 1e6, 1)]) {
      const at = document.createElement("td");
      at.textContent = cell;
      row.append(at);
    }
    return row;
  }));
  seen = fresh;
}

async function poll() {
  try {
    const response = await fetch("/memfirst/stats", { headers: headers(), cache: "no-store" });
    $("asked").hidden = response.status !== 401;
    if (response.ok) draw(await response.json());
    else show("state", response.status === 401 ? "needs a key" : `answers ${response.status}`);
  } catch {
    show("state", "not reached");
  }
  setTimeout(poll, 500);
}

function say(kind, text) {
  const at = document.createElement("div");
  at.className = kind;
  at.textContent = text;
  $("log").append(at);
  $("log").scrollTop = $("log").scrollHeight;
  return at;
}

async function answer() {
  const body = { messages, stream: true, stream_options: { include_usage: true } };
  stopping = new AbortController();
  const response = await fetch("/v1/chat/completions", {
    method: "POST", signal: stopping.signal, headers: { "Content-Type": "application/json", ...headers() }, body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error((await response.json()).error.message);
  const at = say("assistant", ""), reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  messages.push({ role: "assistant", content: "" });
  for (let held = ""; ; ) {
    const { done, value } = await reader.read();
    if (done) return;
    const lines = (held + value).split("\n");
    held = lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data: {")) continue;
      const chunk = JSON.parse(line.slice(6));
      if (chunk.error) throw new Error(chunk.error.message);
      const text = chunk.choices[0]?.delta?.content || "";
      at.textContent += text;
      messages.at(-1).content += text;
      if (chunk.usage) cost(chunk.usage);
      $("log").scrollTop = $("log").scrollHeight;
    }
  }
}

function cost(usage) {
  const m = usage.memfirst, kept = usage.prompt_tokens_details.cached_tokens;
  say("cost", `${usage.completion_tokens} tokens, ${fixed(m.bytes_per_token / 1e6, 1)} MB each; prompt ${usage.prompt_tokens}, ${kept} kept`);
}

function busy(is) {
  $("send").disabled = is;
  $("stop").hidden = !is;
}

$("chat").addEventListener("submit", async (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || $("send").disabled) return;
  $("text").value = "";
  messages.push({ role: "user", content: text });
  say("user", text);
  busy(true);
  try {
    await answer();
  } catch (error) {
    if (error.name !== "AbortError") say("cost", error.message);
    if (messages.at(-1).role === "user") messages.pop();
  }
  busy(false);
  $("text").focus();
});
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey) {
    event.preventDefault();
    $("chat").requestSubmit();
  }
});
$("stop").addEventListener("click", () => stopping?.abort());
$("clear").addEventListener("click", () => {
  stopping?.abort();
  messages = [];
  $("log").replaceChildren();
});
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value;
});
poll();
