// The page talks to the server it came from and to nobody else. Texts are only ever set as text.

const $ = (id) => document.getElementById(id);
const SAMPLES = [
  "What is the capital of Peru?",
  "Switch the lamp in the kitchen on, please.",
  "I'd like to book a table for two in Albany tonight.",
];
const WHO = {
  device: "the device alone: it was sure enough",
  confirmed: "the device; the cloud confirmed it",
  replaced: "the cloud, in place of the device's draft",
  unverified: "the device; the cloud did not answer",
};
const messages = [];
let running = null; // the AbortController of the reply that is being written
let threshold = null; // null: as the server is configured
let scores = {}; // of each strategy: what its threshold is of
let told = ""; // of the newest reply
let device = []; // charge, power, budget: what is measured

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function kept(store, name) {
  try { return store.getItem(name); } catch { return null; }
}

function keep(store, name, value) {
  try { store.setItem(name, value); } catch { /* a browser that keeps nothing */ }
}

function headers() {
  const key = kept(sessionStorage, "key");
  return { "content-type": "application/json", ...(key ? { authorization: `Bearer ${key}` } : {}) };
}

// ---- one reply ----

class ReplyView {
  constructor() {
    this.tokens = [];
    this.box = element("article", "reply writing");
    this.words = element("p", "words");
    this.words.setAttribute("aria-label", "Reply; arrow keys go from word to word");
    this.why = element("div", "why");
    this.why.hidden = true;
    this.why.setAttribute("role", "status");
    this.cost = element("p", "cost");
    this.box.append(this.words, this.why, this.cost);
    this.words.addEventListener("click", (event) => this.open(event.target.closest(".t")));
    this.words.addEventListener("keydown", (event) => this.onKey(event));
    $("log").append(this.box);
  }

  get text() {
    return this.tokens.map((token) => token.text).join("");
  }

  add(token) {
    const first = this.text === "";
    this.tokens.push(token);
    const shown = first ? token.text.trimStart() : token.text;
    if (!shown) return;
    const space = shown.match(/^\s*/)[0];
    if (space) this.words.append(space); // marks begin at the word
    if (space === shown) return;
    const word = element("span", `t ${token.provenance}`, shown.slice(space.length));
    word.setAttribute("role", "button");
    word.setAttribute("aria-expanded", "false");
    word.tabIndex = this.words.querySelector(".t") ? -1 : 0;
    word.token = token;
    this.words.append(word);
  }

  judge(verdict) {
    const token = this.tokens.find((each) => each.index === verdict.index);
    if (token) token.beta = verdict.beta;
  }

  onKey(event) {
    const word = event.target.closest(".t");
    if (!word) return;
    const words = [...this.words.querySelectorAll(".t")];
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 1, ArrowUp: -1 };
    if (event.key === "Enter" || event.key === " ") this.open(word);
    else if (event.key === "Escape") this.close();
    else if (event.key in steps) {
      const next = words[words.indexOf(word) + steps[event.key]];
      if (!next) return;
      word.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
      if (!this.why.hidden) this.open(next, true);
    } else return;
    event.preventDefault();
  }

  close() {
    this.why.hidden = true;
    for (const each of this.words.querySelectorAll("[aria-expanded=true]")) {
      each.setAttribute("aria-expanded", "false");
    }
  }

  open(word, stay = false) {
    if (!word) return;
    const again = word.getAttribute("aria-expanded") === "true" && !stay;
    this.close();
    if (again) return;
    word.setAttribute("aria-expanded", "true");
    const { token } = word;
    const rows = [["written by", WHO[token.provenance]]];
    if (token.reason) rows.push(["because", token.reason]);
    if (token.draft !== undefined && token.draft !== null) {
      rows.push(["the device's draft", token.draft ? `“${token.draft.trim() || token.draft}”` : "the end of the text"]);
    }
    if (token.uploaded) {
      const said = token.accepted === null
        ? (token.source === "cloud" ? "supplied it" : "none came")
        : (token.accepted ? "accepted" : "rejected the draft");
      rows.push(["the cloud's verdict", said]);
    } else rows.push(["the cloud's verdict", "not asked"]);
    if (token.beta !== undefined) {
      rows.push(["told later", `the cloud would reject it with probability ${token.beta.toFixed(2)}`]);
    }
    const list = element("dl");
    const u = element("dd");
    if (token.uncertainty === null) u.textContent = "not measured";
    else {
      const meter = element("meter");
      Object.assign(meter, { min: 0, max: 1, low: 0.2, high: 0.6, optimum: 0, value: token.uncertainty });
      u.append(meter, token.uncertainty.toFixed(2));
    }
    list.append(element("dt", "", "uncertainty u"), u);
    for (const [name, value] of rows) list.append(element("dt", "", name), element("dd", "", value));
    this.why.replaceChildren(element("h2", "", `“${word.textContent}”`), list);
    this.why.hidden = false;
    this.why.scrollIntoView({ block: "nearest" });
  }

  end(line) {
    this.box.classList.remove("writing");
    this.cost.textContent = line;
  }
}

function notice(text, bad = false) {
  $("log").append(element("p", bad ? "notice bad" : "notice", text));
  toEnd();
}

function toEnd() {
  $("main").scrollTop = $("main").scrollHeight;
}

function state(online, text) {
  $("status").dataset.state = online ? "online" : "offline";
  $("status-text").textContent = text;
}

// ---- the stream ----

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    rest += value;
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const data = part.replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

function options() {
  const strategy = $("strategy").value;
  return { measure: true, ...(strategy ? { strategy } : {}), ...(threshold === null ? {} : { threshold }) };
}

async function ask(said) {
  $("empty").hidden = true;
  $("log").append(element("p", "said", said));
  messages.push({ role: "user", content: said });
  const view = new ReplyView();
  toEnd();
  running = new AbortController();
  $("send").textContent = "Stop";
  const begun = performance.now();
  let stats = null;
  let reason = null;
  try {
    const answer = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: headers(),
      signal: running.signal,
      body: JSON.stringify({ messages, stream: true, uhlm: options() }),
    });
    if (!answer.ok) throw new Error((await answer.json()).error.message, { cause: answer.status });
    for await (const event of events(answer.body)) {
      if (event.error) throw new Error(event.error.message);
      for (const choice of event.choices) {
        const { tokens = [], notices = [], verdicts = [], stats: ended } = choice.uhlm;
        for (const text of notices) notice(text);
        for (const token of tokens) {
          view.add(token);
          if (token.provenance === "unverified") state(false, "offline");
          else if (token.uploaded) state(true, "online");
        }
        for (const verdict of verdicts) view.judge(verdict);
        if (ended) stats = ended;
        reason = choice.finish_reason ?? reason;
      }
      live(view, begun);
      toEnd();
    }
  } catch (error) {
    if (error.name !== "AbortError") notice(error.message, true);
    if (error.cause === 401) $("key-dialog").showModal();
  }
  view.end(stats ? summary(stats, reason) : "stopped");
  if (stats && stats.offline_reason) state(false, "offline");
  if (view.text) messages.push({ role: "assistant", content: view.text });
  else messages.pop(); // nothing came: the next try says it again
  if (!view.tokens.length) view.box.remove();
  running = null;
  $("send").textContent = "Send";
  look();
}

function rate(perSecond) {
  return `${perSecond.toFixed(perSecond < 10 ? 1 : 0)} tokens/s`;
}

function live(view, begun) {
  const n = view.tokens.length;
  const uploads = view.tokens.filter((token) => token.uploaded).length;
  const seconds = (performance.now() - begun) / 1000;
  tell(`writing · ${n} tokens · ${rate(n / seconds)} · ${uploads} uploaded`);
}

// The line at the bottom: the reply, then the device.
function tell(reply) {
  told = reply;
  $("stats").textContent = [reply, ...device].filter(Boolean).join(" · ");
}

function bytes(n) {
  return n < 1000 ? `${n} bytes` : n < 1e6 ? `${(n / 1e3).toFixed(1)} kB` : `${(n / 1e6).toFixed(1)} MB`;
}

async function look() {
  try {
    const answer = await fetch("/v1/device", { headers: headers() });
    if (!answer.ok) return;
    const { battery, watts, budget } = await answer.json();
    device = [];
    if (battery) device.push(`battery ${Math.round(battery.percent)} % (${battery.status.toLowerCase()})`);
    if (watts !== null) device.push(`${watts.toFixed(1)} W`);
    for (const [span, counts] of Object.entries(budget ?? {})) {
      if (span === "reply") continue; // it begins anew with each
      for (const [name, { spent, cap }] of Object.entries(counts)) {
        const show = name === "bytes" ? bytes : (n) => `${+n.toFixed(name === "money" ? 4 : 0)}`;
        const of = name === "bytes" ? `${show(spent)} of ${show(cap)}` : `${show(spent)} of ${show(cap)} ${name}`;
        device.push(`${span === "day" ? "today" : "session"} ${of}`);
      }
    }
    tell(told);
  } catch { /* what cannot be asked is not shown */ }
}

function summary(stats, reason) {
  const percent = Math.round(100 * stats.transmission_rate);
  const parts = [
    `${stats.tokens} tokens`,
    rate(stats.tokens_per_s),
    stats.uploads ? `${stats.uploads} ${stats.uploads > 1 ? "uploads" : "upload"} (${percent} % of the tokens)` : "no uploads",
  ];
  if (stats.rejected) parts.push(`${stats.rejected} replaced`);
  if (stats.uplink_bytes) parts.push(`${bytes(stats.uplink_bytes)} up`);
  if (reason === "length") parts.push("cut off at the limit");
  if (stats.offline_reason) parts.push("partly without the cloud");
  const where = stats.offline_reason ? "offline" : stats.uploads
    ? `${stats.uploads} uploads, ${bytes(stats.uplink_bytes)} up` : "no uploads";
  tell(`${stats.strategy} · ${parts[1]} · ${where}`);
  return parts.join(" · ");
}

// ---- controls ----

function grow() {
  $("said").style.height = "auto"; // set by script, not by markup: the policy allows it
  $("said").style.height = `${$("said").scrollHeight + 2}px`;
}

function send() {
  if (running) return running.abort();
  const said = $("said").value.trim();
  if (!said) return undefined;
  $("said").value = "";
  grow();
  return ask(said);
}

$("composer").addEventListener("submit", (event) => { event.preventDefault(); send(); });
$("said").addEventListener("input", grow);
$("said").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    if (!running) send();
  }
});
$("fresh").addEventListener("click", () => {
  running?.abort();
  messages.length = 0;
  $("log").replaceChildren();
  tell("");
  $("empty").hidden = false;
  $("said").focus();
});
function show(open) {
  $("panel").hidden = !open;
  $("settings").setAttribute("aria-expanded", String(open));
}
$("settings").addEventListener("click", () => show($("panel").hidden));
document.querySelector("header").addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || $("panel").hidden) return;
  show(false);
  $("settings").focus();
});
$("panel").addEventListener("submit", (event) => event.preventDefault());
$("threshold").addEventListener("input", () => set(Number($("threshold").value)));
$("automatic").addEventListener("click", () => {
  set(null);
  $("threshold").focus();
});
function set(value) {
  const none = $("threshold").disabled;
  threshold = value;
  $("threshold-text").textContent = none ? "none" : value === null ? "automatic" : value.toFixed(2);
  $("automatic").hidden = none || value === null;
}
// A threshold goes with its score: a strategy that asks by another one begins with its own.
function scored() {
  const score = scores[$("strategy").value];
  const [by, where = ""] = (score ?? "").split(" over");
  const of = by === "head" ? " of the expected rejection" : by ? " of u" : "";
  $("threshold-name").textContent = `Threshold${of}${where && ", mean over" + where}`;
  $("threshold").disabled = !score;
  const same = !score || score === $("threshold").dataset.score;
  if (!same) $("threshold").dataset.score = score;
  set(same ? threshold : null);
}
$("strategy").addEventListener("change", scored);
function paint(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}
$("theme").addEventListener("change", () => {
  keep(localStorage, "theme", $("theme").value);
  paint($("theme").value);
});
$("key-form").addEventListener("submit", () => {
  keep(sessionStorage, "key", $("key").value);
  $("key").value = "";
  begin();
});

async function begin() {
  try {
    const answer = await fetch("/v1/info", { headers: headers() });
    if (answer.status === 401) {
      state(false, "a key is needed");
      return $("key-dialog").showModal();
    }
    const info = await answer.json();
    $("strategy").replaceChildren(...info.strategies.map((name) => {
      const option = element("option", "", name);
      option.value = name;
      option.selected = name === info.strategy;
      return option;
    }));
    scores = info.scores;
    scored();
    $("models").textContent = info.verifier ? `${info.model} and ${info.verifier}` : info.model;
    state(info.online, info.online ? "online" : "alone");
    look();
  } catch {
    state(false, "the device does not answer");
  }
  return undefined;
}

for (const sample of SAMPLES) {
  const item = element("li");
  const button = element("button", "", sample);
  button.type = "button";
  button.addEventListener("click", () => { if (!running) ask(sample); });
  item.append(button);
  $("samples").append(item);
}
$("theme").value = kept(localStorage, "theme") ?? "";
paint($("theme").value);
begin();
