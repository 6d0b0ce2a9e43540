"use strict";
// Draws /gateway/state, every few seconds, and changes nothing. All that it shows was chosen by others: it goes into text
// nodes alone, and what would change how the text around it is read is shown as what it is.

const LOOK_SECONDS = 3;
const PATIENCE_SECONDS = 15;
const NARROW = matchMedia("(max-width: 68rem)");
const DAY_SECONDS = 86400;

// How things are written.

const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}]/gu;
const clean = (text) => String(text).replace(HIDDEN, "\uFFFD");

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const small = new Intl.NumberFormat("en", { maximumSignificantDigits: 2 });

function amount(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return Math.abs(value) < 10000 ? whole.format(value) : compact.format(value);
}

function rate(value) {
  if (value === null || !Number.isFinite(value)) return "–";
  if (value === 0) return "0";
  return value < 10 ? small.format(value) : amount(value);
}

function bytes(value) {
  if (value === null) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${value < 10 && unit ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

function duration(seconds) {
  if (seconds === null || !Number.isFinite(seconds)) return "–";
  if (seconds < 0.01) return `${small.format(seconds * 1000)} ms`;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${Math.floor(seconds)} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 2 * DAY_SECONDS) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / DAY_SECONDS)} d`;
}

function moment(seconds) {
  return new Date(seconds * 1000).toISOString().replace("T", " ").slice(0, 16) + " UTC";
}

const percent = (ratio) => `${ratio < 0.1 && ratio > 0 ? (ratio * 100).toFixed(1) : Math.round(ratio * 100)} %`;
const sum = (values) => values.reduce((total, value) => total + value, 0);

// What cells are made of: [text, tags and bars] as elements, by one small way to make them.

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

function named(text, most = 200) {
  const shown = clean(text);
  return element("bdi", { class: "cut", title: shown.length > 40 ? shown : null }, shown.slice(0, most));
}

const tag = (text, kind) => element("span", { class: `tag ${kind}` }, clean(text));
const less = (text) => element("span", { class: "less" }, clean(text));

function bar(label, ratio, rest) {
  const kind = ratio >= 1 ? "bad" : ratio >= 0.8 ? "warn" : "";
  const inner = element("span", { class: `bar ${kind}` });
  inner.style.width = `${Math.max(0, Math.min(100, ratio * 100))}%`;
  return element("div", { class: "use" },
    element("span", { class: "less" }, clean(label)),
    element("span", { class: "trough", "aria-hidden": "true" }, inner),
    element("span", {}, percent(ratio), rest ? less(` ${rest}`) : ""));
}

// `max_tokens_per_1_minute` is `tokens per minute` to people.
const dimension = (name) => name.replace(/^max_/, "").replace(/_1_/g, "_").replaceAll("_", " ");

// What has happened between two looks.

let before = null;
let now = null;

function sameGateway() {
  return before !== null && before.instance === now.instance && before.started === now.started
    && now.time > before.time;
}

const indexed = new WeakMap();
function former(list, key, value) {
  if (!sameGateway()) return undefined;
  let index = indexed.get(before[list]);
  if (!index) {
    index = new Map(before[list].map((entry) => [entry[key], entry]));
    indexed.set(before[list], index);
  }
  return index.get(value);
}

// What was not there has counted nothing, unless it may have been left out.
function rateOf(list, key, count) {
  return (entry) => {
    if (!sameGateway()) return null;
    const was = former(list, key, entry[key]);
    if (was === undefined && list === "tenants" && before.left_out.tenants) return null;
    const difference = count(entry) - (was === undefined ? 0 : count(was));
    return difference < 0 ? null : difference / (now.time - before.time);
  };
}

const byStatus = (upstream, test) => sum(Object.entries(upstream.answers)
  .filter(([status]) => test(status)).map(([, count]) => count));
const answered = (upstream) => sum(Object.values(upstream.answers));

const unconnected = (upstream) => sum(Object.entries(upstream.connects)
  .filter(([result]) => result !== "connected").map(([, count]) => count));

function meanAnswer(upstream) {
  const was = former("upstreams", "upstream", upstream.upstream);
  const since = was && answered(upstream) > answered(was) ? was : { answers: {}, answer_seconds: 0 };
  const count = answered(upstream) - answered(since);
  return count > 0 ? (upstream.answer_seconds - since.answer_seconds) / count : null;
}

function meanTrip(redis) {
  const was = former("redis", "server", redis.server);
  const since = was && redis.round_trips > was.round_trips ? was : { round_trips: 0, seconds: 0 };
  const count = redis.round_trips - since.round_trips;
  return count > 0 ? (redis.seconds - since.seconds) / count : null;
}

function cores(worker) {
  if (!sameGateway() || worker.cpu_seconds === null) return null;
  const was = before.workers.find((other) => other.worker === worker.worker);
  if (!was || was.cpu_seconds === null) return null;
  return Math.max(0, worker.cpu_seconds - was.cpu_seconds) / (now.time - before.time);
}

const spent = (used) => (used === null ? null : used.input + used.output);
const fullest = (tenant) => (tenant.limits.length ? tenant.limits[0].used_ratio : -1);
const leftRatio = (upstream) => Math.min(2, ...upstream.limits_left
  .map((limit) => (limit.limit ? limit.remaining / limit.limit : 2)));

// The tables. `value` is what a column is sorted by, and, where there is no `show`, what is shown.

const number = (label, value, format, more = {}) => ({ label, value, format, number: true, ...more });
// A rate, and below it how many there have been.
const counted = (label, value, count, more = {}) => ({
  label, value, number: true, alarm: true,
  show: (one) => [rate(value(one)), element("span", { class: "in-all" }, `${amount(count(one))} in all`)],
  ...more,
});
const exchangeColumns = (age) => [
  number(age, (one) => one.age_seconds, duration, { first: "descending" }),
  { label: "Tenant", value: (one) => one.tenant },
  { label: "Operation", value: (one) => one.operation, long: true, less: true },
  { label: "Model", value: (one) => one.model ?? "" },
  { label: "Upstream", value: (one) => one.upstream ?? "" },
];
const requestColumns = [
  number("Sent", (one) => one.bytes_out, bytes),
  { label: "Worker", value: (one) => one.worker, less: true },
  { label: "Request id", value: (one) => one.request_id, code: true, whole: true, full: true },
];

const tenantRates = {
  requests: rateOf("tenants", "tenant", (one) => one.exchanges),
  failed: rateOf("tenants", "tenant", (one) => one.failed),
  throttled: rateOf("tenants", "tenant", (one) => one.throttled),
  output: rateOf("tenants", "tenant", (one) => one.llm_tokens.output),
};

const TABLES = [
  {
    id: "tenants", title: "Tenants", few: 15, key: (one) => one.tenant, rows: () => now.tenants,
    note: () => (now.left_out.tenants ? `${whole.format(now.left_out.tenants)} with fewer exchanges are not listed.` : ""),
    empty: "There are none.",
    columns: [
      {
        label: "Tenant", value: (one) => one.tenant, head: true,
        show: (one) => [named(one.tenant),
          ...(one.name ? [element("span", { class: "less" }, named(one.name))] : []),
          ...(one.enabled === false ? [tag("disabled", "warn")] : [])],
        text: (one) => `${one.tenant} ${one.name ?? ""}`,
      },
      number("In flight", (one) => one.in_flight, amount),
      number("Requests/s", tenantRates.requests, rate),
      counted("Failed/s", tenantRates.failed, (one) => one.failed),
      counted("Throttled/s", tenantRates.throttled, (one) => one.throttled),
      number("LLM tokens out/s", tenantRates.output, rate),
      {
        label: "Limits in use", value: fullest, full: true, first: "descending",
        show: (one) => (one.limits.length
          ? [...one.limits.slice(0, 3).map((limit) => bar(dimension(limit.dimension), limit.used_ratio,
              limit.limit === null ? "" : `of ${amount(limit.limit)}`)),
            ...(one.limits.length > 3 ? [less(`and ${one.limits.length - 3} less full`)] : [])]
          : [less("–")]),
      },
      number("LLM tokens today", (one) => spent(one.used.today), amount, { title: (one) => spending(one.used.today, one.used.read) }),
      number("This month", (one) => spent(one.used.month), amount, { title: (one) => spending(one.used.month, one.used.read) }),
    ],
  },
  {
    id: "upstreams", title: "Upstreams", key: (one) => one.upstream, rows: () => now.upstreams,
    empty: "None has been asked yet.",
    columns: [
      { label: "Upstream", value: (one) => one.upstream, head: true },
      number("Answers/s", rateOf("upstreams", "upstream", answered), rate),
      ...[
        ["2xx/s", (status) => status.startsWith("2"), {}],
        ["4xx but 429/s", (status) => status.startsWith("4") && status !== "429", {}],
        ["429/s", (status) => status === "429", { alarm: true }],
        ["5xx/s", (status) => status.startsWith("5"), { alarm: true }],
      ].map(([label, test, more]) => {
        const count = (one) => byStatus(one, test);
        return counted(label, rateOf("upstreams", "upstream", count), count, { alarm: false, ...more });
      }),
      number("Answers after", meanAnswer, duration),
      counted("Not connected/s", rateOf("upstreams", "upstream", unconnected), unconnected, {
        title: (one) => Object.entries(one.connects).map(([result, count]) => `${clean(result)}: ${whole.format(count)}`).join(", "),
      }),
      {
        label: "Connections", value: (one) => one.connections.busy ?? 0, first: "descending", full: true,
        show: (one) => {
          const { busy = 0, idle = 0, waiting = 0 } = one.connections;
          const words = `${whole.format(busy)} busy, ${whole.format(idle)} idle`;
          return [one.connections_most ? bar(words, busy / one.connections_most, `of ${amount(one.connections_most)}`) : words,
            ...(waiting ? [tag(`${whole.format(waiting)} wait for one`, "bad")] : [])];
        },
      },
      {
        label: "Its limits, least left", value: leftRatio, full: true,
        show: (one) => (one.limits_left.length
          ? one.limits_left.slice(0, 2).map((limit) => left(limit)) : [less("–")]),
      },
    ],
  },
  {
    id: "errors", title: "Errors of the gateway's own", half: true, key: (one) => one.code, rows: () => now.errors,
    empty: "There have been none.",
    columns: [
      { label: "Code", value: (one) => one.code, head: true, code: true },
      number("Per second", rateOf("errors", "code", (one) => one.count), rate),
      number("Since the start", (one) => one.count, amount, { first: "descending" }),
    ],
  },
  {
    id: "workers", title: "Workers", half: true, key: (one) => one.pid, rows: () => now.workers, empty: "None runs.",
    columns: [
      { label: "Worker", value: (one) => one.worker, head: true, show: (one) => [`${one.worker} `, less(`pid ${one.pid}`)] },
      { label: "State", value: (one) => one.state, show: (one) => [tag(one.state, { ready: "good", hung: "bad" }[one.state] ?? "warn")] },
      number("In flight", (one) => one.in_flight, amount),
      number("Clients", (one) => one.connections, amount),
      number("Core in use", cores, percentOrNone),
      number("Memory", (one) => one.memory_bytes, bytes),
      number("Longest turn", (one) => one.loop_lag_max_seconds, duration),
    ],
  },
  {
    id: "oldest", title: "Oldest exchanges", note: () => "That run now; at most 20 by HTTP and 20 by WebSocket.", key: (one) => one.request_id, rows: () => now.oldest,
    empty: "None runs.",
    columns: [...exchangeColumns("Age"), { label: "By", value: (one) => one.transport, less: true }, ...requestColumns],
  },
  {
    id: "slowest", title: "Slowest exchanges", note: () => "That ended in the last five minutes, without WebSockets; at most 20.",
    key: (one) => one.request_id, rows: () => now.slowest, empty: "None has ended.",
    columns: [
      ...exchangeColumns("Took"),
      number("Ended", (one) => now.time - one.ended, (ago) => `${duration(Math.max(0, ago))} ago`),
      {
        label: "Ending", value: (one) => `${one.status ?? "–"} ${one.ending}`,
        show: (one) => [tag(one.status ?? "no answer", one.status === null || one.status >= 500 ? "bad" : one.status >= 400 ? "warn" : "good"),
          less(` ${one.ending.replaceAll("_", " ")}`)],
      },
      ...requestColumns,
    ],
  },
  {
    id: "redis", title: "Redis", half: true, key: (one) => one.server, rows: () => now.redis, empty: "There is none: this gateway counts in its own memory.",
    columns: [
      { label: "Server", value: (one) => one.server, head: true },
      { label: "State", value: (one) => (one.up ? "up" : "down"), show: (one) => [one.up ? tag("up", "good") : tag("down", "bad")] },
      number("Round trips/s", rateOf("redis", "server", (one) => one.round_trips), rate),
      number("Each takes", meanTrip, duration),
    ],
  },
  {
    id: "credentials", title: "Credentials, next to expire", half: true, key: (one) => one.id, rows: () => now.credentials ?? [],
    note: () => (now.left_out.credentials ? "Others expire later." : ""),
    empty: () => (now.credentials === null ? "There is no register, which is in Redis, or it cannot be read." : "None is in force."),
    columns: [
      {
        label: "Expires", value: (one) => one.expires, number: true,
        show: (one) => {
          const rest = one.expires - now.time;
          const words = rest > 0 ? `in ${duration(rest)}` : "now";
          return [rest < DAY_SECONDS ? tag(words, "bad") : rest < 7 * DAY_SECONDS ? tag(words, "warn") : words];
        },
        title: (one) => moment(one.expires),
      },
      { label: "Tenant", value: (one) => one.tenant },
      { label: "Subject", value: (one) => one.subject },
      { label: "Id (jti)", value: (one) => one.id, code: true, full: true },
    ],
  },
];

function percentOrNone(ratio) {
  return ratio === null ? "–" : percent(ratio);
}

function spending(used, read) {
  if (used === null) return "not known";
  return `${whole.format(used.requests)} requests, ${whole.format(used.input)} LLM tokens in, ${whole.format(used.output)} out`
    + (read === null ? "" : `; read ${duration(Math.max(0, now.time - read))} ago`);
}

function left(limit) {
  const what = `${limit.dimension}${limit.model ? `, ${limit.model}` : ""}`;
  if (!limit.limit) return element("div", {}, less(`${what}: `), `${amount(limit.remaining)} left`);
  const made = bar(what, 1 - limit.remaining / limit.limit, "");
  made.children[2].replaceChildren(`${amount(limit.remaining)} of ${amount(limit.limit)} left`);
  return made;
}

// A table: its head, by which it is sorted, and rows that keep their elements as long as what they show is there.

class Table {
  constructor(form) {
    this.form = form;
    this.sort = null;
    this.all = false;
    this.rows = new Map();
    this.count = element("small");
    this.note = element("p", { class: "note" });
    this.body = element("tbody", { role: "rowgroup" });
    this.heads = form.columns.map((column, at) => this.head(column, at));
    this.table = element("table", { role: "table", "aria-labelledby": `h-${form.id}` },
      element("thead", { role: "rowgroup" }, element("tr", { role: "row" }, ...this.heads)), this.body);
    this.wide = element("div", { class: "wide" }, this.table);
    this.more = element("button", { type: "button", class: "more" });
    this.more.addEventListener("click", () => { this.all = !this.all; this.draw(); });
    this.section = element("section", { id: form.id, class: form.half ? "half" : null, "aria-labelledby": `h-${form.id}` },
      element("h2", { id: `h-${form.id}` }, form.title, " ", this.count), this.note, this.wide, this.more);
  }

  head(column, at) {
    const button = element("button", { type: "button" }, column.label);
    button.addEventListener("click", () => {
      const first = column.first ?? (column.number ? "descending" : "ascending");
      const other = first === "ascending" ? "descending" : "ascending";
      this.sort = this.sort?.at !== at ? { at, way: first } : this.sort.way === first ? { at, way: other } : null;
      this.draw();
    });
    return element("th", { role: "columnheader", scope: "col", class: column.number ? "number" : null }, button);
  }

  draw() {
    const { form } = this;
    const given = form.rows();
    const words = filterWords();
    let rows = words.length ? given.filter((one) => this.has(one, words)) : given.slice();
    if (this.sort) this.order(rows);
    this.heads.forEach((head, at) => {
      if (this.sort?.at === at) head.setAttribute("aria-sort", this.sort.way);
      else head.removeAttribute("aria-sort");
    });
    this.count.textContent = words.length ? `${whole.format(rows.length)} of ${whole.format(given.length)}` : given.length > 1 ? whole.format(given.length) : "";
    const empty = typeof form.empty === "function" ? form.empty() : form.empty;
    this.note.textContent = given.length === 0 ? empty : rows.length === 0 ? "None fits the filter." : form.note?.() ?? "";
    this.note.hidden = !this.note.textContent;
    this.wide.hidden = rows.length === 0;
    const few = NARROW.matches ? 5 : form.few ?? 10;
    this.more.hidden = rows.length <= few;
    this.more.textContent = this.all ? `Show ${few}` : `Show all ${whole.format(rows.length)}`;
    this.more.setAttribute("aria-label", `${this.more.textContent}: ${form.title}`);
    if (!this.all) rows = rows.slice(0, few);
    this.place(rows);
  }

  has(one, words) {
    const text = this.form.columns.map((column) => (column.text ?? column.value)(one)).join(" ").toLowerCase();
    return words.every((word) => text.includes(word));
  }

  order(rows) {
    const { value } = this.form.columns[this.sort.at];
    const values = new Map(rows.map((one) => [one, value(one)]));
    const way = this.sort.way === "ascending" ? 1 : -1;
    rows.sort((one, other) => {
      const a = values.get(one), b = values.get(other);
      if (a === null || b === null) return (a === null) - (b === null); // what is not known stands last, either way
      return way * (typeof a === "number" ? a - b : String(a).localeCompare(String(b)));
    });
  }

  place(rows) {
    const kept = new Map();
    let at = this.body.firstElementChild;
    for (const one of rows) {
      const key = this.form.key(one);
      if (kept.has(key)) continue;
      const row = this.rows.get(key) ?? this.row();
      kept.set(key, row);
      this.fill(row, one);
      if (row === at) at = at.nextElementSibling;
      else this.body.insertBefore(row, at);
    }
    for (const [key, row] of this.rows) if (kept.get(key) !== row) row.remove();
    this.rows = kept;
  }

  row() {
    return element("tr", { role: "row" }, ...this.form.columns.map((column) => {
      const kinds = [column.number && "number", column.full && "full", !column.number && "name", column.code && "code", column.whole && "whole", column.less && "less", column.long && "long"];
      const form = { class: kinds.filter(Boolean).join(" "), "data-label": column.label };
      return column.head ? element("th", { ...form, role: "rowheader", scope: "row" }) : element("td", { ...form, role: "cell" });
    }));
  }

  fill(row, one) {
    this.form.columns.forEach((column, at) => {
      const cell = row.children[at];
      const value = column.value(one);
      const made = column.show ? column.show(one) : [column.format ? column.format(value) : value === "" ? less("–") : named(value)];
      const probe = element("div", {}, ...made);
      // What has not changed is left alone: somebody may be marking it, to copy it.
      if (!cell.sameAs || !probe.isEqualNode(cell.sameAs)) {
        cell.sameAs = probe.cloneNode(true);
        cell.replaceChildren(...probe.childNodes);
      }
      if (column.title) cell.title = column.title(one);
      if (column.number) {
        cell.classList.toggle("zero", value === 0 || value === null);
        cell.classList.toggle("alarm", Boolean(column.alarm) && value > 0);
      }
    });
  }
}

// The page.

const at = (id) => document.getElementById(id);
const filterWords = () => at("filter").value.trim().toLowerCase().split(/\s+/).filter(Boolean);

const tables = TABLES.map((form) => new Table(form));
let seenAt = null;
let paused = false;
let stopped = false;
let timer = null;
let looking = false;

function drawSums() {
  const together = (count) => sum(now.tenants.map(count).filter((value) => value !== null));
  const known = sameGateway();
  const per = (count) => (known ? rate(together(count)) : "–");
  const shown = [
    ["In flight", amount(sum(now.tenants.map((one) => one.in_flight))), ""],
    ["Requests", per(tenantRates.requests), "/s"],
    ["Failed", per(tenantRates.failed), "/s"],
    ["Throttled", per(tenantRates.throttled), "/s"],
    ["LLM tokens out", per(tenantRates.output), "/s"],
    ["LLM tokens today", amount(sumOrNone(now.tenants.map((one) => spent(one.used.today)))), ""],
    ["This month", amount(sumOrNone(now.tenants.map((one) => spent(one.used.month)))), ""],
  ];
  at("sums").replaceChildren(...shown.map(([label, value, unit]) => element("div", {},
    element("dt", {}, label), element("dd", {}, value, unit ? element("small", {}, unit) : ""))));
}

function sumOrNone(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? sum(known) : null;
}

function drawNotices() {
  const notices = [];
  const say = (text, kind) => notices.push(element("li", { class: kind }, clean(text)));
  if (!now.ready) say(`Not ready. ${now.reasons.map((reason) => reason.message).join(" ")}`, "bad");
  for (const server of now.redis) if (!server.up) say(`Redis ${server.server} does not answer.`, "bad");
  for (const worker of now.workers) if (worker.state === "hung") say(`The loop of worker ${worker.worker} (pid ${worker.pid}) does not turn.`, "bad");
  for (const upstream of now.upstreams) {
    if (upstream.connections.waiting) say(`${whole.format(upstream.connections.waiting)} exchanges wait for a connection to the upstream ${upstream.upstream}.`, "bad");
  }
  if (!now.configuration.valid) say("The configuration on disk is wrong; what was in force before still is. The log says what is wrong.", "warn");
  const list = at("notices");
  const probe = element("ul", {}, ...notices);
  if (!list.sameAs || !probe.isEqualNode(list.sameAs)) {
    list.sameAs = probe.cloneNode(true);
    list.replaceChildren(...probe.childNodes);
  }
  list.hidden = notices.length === 0;
}

function draw() {
  if (now === null) return;
  const name = clean(now.instance);
  at("instance").textContent = name;
  document.title = `${now.ready ? "" : "(!) "}Gateway ${name}`;
  const loaded = now.configuration.loaded;
  at("about").textContent = `Version ${clean(now.version)}, up ${duration(now.time - now.started)}`
    + (loaded === null ? "" : `, configuration read ${duration(Math.max(0, now.time - loaded))} ago`);
  drawSums();
  drawNotices();
  for (const table of tables) table.draw();
}

function trouble(text) {
  const shown = at("trouble"), age = at("age");
  if (shown.textContent !== (text ?? "")) shown.textContent = text ?? ""; // else it would be read out each time
  shown.hidden = text === null;
  age.hidden = text === null || seenAt === null;
  age.textContent = age.hidden ? "" : `What is shown is ${duration((Date.now() - seenAt) / 1000)} old.`;
  document.body.classList.toggle("stale", text !== null && seenAt !== null);
}

async function refusal(answer) {
  const said = await answer.json().then((document) => document.error?.message, () => null);
  return `The gateway refuses to tell (${answer.status}). ${clean(said ?? "")}`;
}

async function look() {
  if (looking) return;
  looking = true;
  const patience = new AbortController();
  const clock = setTimeout(() => patience.abort(), PATIENCE_SECONDS * 1000);
  try {
    const answer = await fetch("state", { cache: "no-store", redirect: "error", signal: patience.signal });
    if (!answer.ok) {
      stopped = answer.status === 401; // else the browser would ask for the key every few seconds
      trouble(await refusal(answer) + (stopped ? " Reload this page to show it." : ""));
      return;
    }
    const told = await answer.json();
    if (now === null || told.time !== now.time) { before = now; now = told; }
    seenAt = Date.now();
    trouble(null);
    draw();
  } catch (error) {
    trouble(error instanceof TypeError || error.name === "AbortError"
      ? "The gateway cannot be reached." : `What the gateway tells cannot be shown: ${clean(error.message)}`);
  } finally {
    clearTimeout(clock);
    looking = false;
    later();
  }
}

function later() {
  clearTimeout(timer);
  if (!paused && !stopped && !document.hidden) timer = setTimeout(look, LOOK_SECONDS * 1000);
}

at("filter").addEventListener("input", draw);
NARROW.addEventListener("change", draw);
at("pause").addEventListener("click", () => {
  paused = !paused;
  at("pause").setAttribute("aria-pressed", String(paused));
  at("pause").textContent = paused ? "Go on" : "Pause";
  if (paused) later(); else look();
});
document.addEventListener("visibilitychange", () => { if (!document.hidden && !paused && !stopped) look(); else later(); });
at("tables").append(...tables.map((table) => table.section));
look();
