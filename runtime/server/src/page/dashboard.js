// What the server does at the moment: reads /metrics each second, and shows charts and totals of one model.

import { ask } from "./api.js";
import { element, makeChart, written } from "./chart.js";
import { growth, parse, quantile, rate, value } from "./metrics.js";

/** Time between two readings, milliseconds. */
const PERIOD = 1000;
/** How long a reading may take, milliseconds. */
const PATIENCE = 5000;
/** What charts show, seconds. */
const SPAN = 120;
/** Over how long rates are taken, and over how long quantiles; seconds. */
const [SHORT, LONG] = [3, 30];

const level = (name) => (now, _, labels) => value(now, name, labels);
const speed = (name) => (now, past, labels) => rate(now, past(SHORT), name, labels);
const part = (name, share) => (now, past, labels) => quantile(now, past(LONG), name, labels, share);
const ratio = (some, all) => (now, past, labels) => {
  const [hits, asked] = [some, all].map((name) => growth(now, past(LONG), name, labels));
  return hits === null || !asked ? null : hits / asked;
};

/** Charts: what is drawn, and how each line follows from readings. */
const CHARTS = [
  {
    title: "Throughput, tokens",
    unit: "per second",
    lines: { answers: speed("trtc_generation_tokens_total"), prompts: speed("trtc_prompt_tokens_total") },
  },
  {
    title: "Requests",
    unit: "count",
    lines: { running: level("trtc_num_requests_running"), waiting: level("trtc_num_requests_waiting") },
  },
  {
    title: "Time to the first token",
    unit: "seconds",
    lines: {
      median: part("trtc_time_to_first_token_seconds", 0.5),
      "95th percentile": part("trtc_time_to_first_token_seconds", 0.95),
    },
  },
  {
    title: "Time between tokens",
    unit: "seconds",
    lines: {
      median: part("trtc_inter_token_latency_seconds", 0.5),
      "95th percentile": part("trtc_inter_token_latency_seconds", 0.95),
    },
  },
  { title: "KV cache", unit: "share", top: 1, lines: { used: level("trtc_kv_cache_usage_perc") } },
  {
    title: "Prompt tokens found in the cache",
    unit: "share",
    top: 1,
    lines: { found: ratio("trtc_prefix_cache_hits_total", "trtc_prefix_cache_queries_total") },
  },
];

/** Rows of the table: names, series, and labels beside the model's; those of the server itself have no model. */
const TOTALS = [
  ["Tokens of prompts", "trtc_prompt_tokens_total", {}],
  ["Tokens of answers", "trtc_generation_tokens_total", {}],
  ["Answers that ended by themselves", "trtc_request_success_total", { finished_reason: "stop" }],
  ["Answers that were as long as allowed", "trtc_request_success_total", { finished_reason: "length" }],
  ["Answers that were given up", "trtc_request_success_total", { finished_reason: "abort" }],
  ["Times that a request lost its place in the cache", "trtc_num_preemptions_total", {}],
  ["Steps that failed", "trtc_engine_failed_steps_total", {}],
  ["Errors, of all models", "trtc_request_error_total", null],
  ["Open connections, of all models", "trtc_http_connections", null],
];

/**
 * The dashboard. `model` gives the name of the model to show; `tell` takes how it goes: "live", "paused", or the error
 * that ended a reading. Gives `start`, which reads from now on, and `reset`, for another model.
 */
export function makeDashboard(model, tell) {
  const charts = CHARTS.map((row) => {
    const chart = makeChart({ ...row, lines: Object.keys(row.lines) }, SPAN);
    document.getElementById("charts").append(chart.card);
    return { ...chart, compute: Object.values(row.lines), points: [] };
  });
  const totals = TOTALS.map(([name, series, labels]) => {
    const row = element("tr");
    const head = row.appendChild(element("th", "", name));
    head.scope = "row";
    const cell = row.appendChild(element("td", "", "–"));
    document.getElementById("totals").append(row);
    return { cell, series, labels };
  });
  const pause = document.getElementById("pause");
  let readings = [];
  let timer = 0;
  /** Readings that were begun; the answer to any but the last is not shown. */
  let turn = 0;

  const paused = () => pause.getAttribute("aria-pressed") === "true";

  function show(now) {
    const labels = { model: model() };
    // The newest of those that are old enough, or the oldest.
    const past = (age) => readings.findLast((r) => r.time <= now.time - age) ?? readings[0];
    for (const chart of charts) {
      chart.points.push({ time: now.time, values: chart.compute.map((line) => line(now, past, labels)) });
      chart.points = chart.points.filter((p) => p.time >= now.time - SPAN);
      chart.draw(chart.points);
    }
    for (const { cell, series, labels: more } of totals) {
      cell.textContent = written(value(now, series, more ? { ...labels, ...more } : {}), "count");
    }
    readings.push(now);
    readings = readings.filter((r) => r.time >= now.time - LONG - SHORT);
  }

  async function read() {
    clearTimeout(timer);
    if (paused() || document.hidden) return;
    const mine = ++turn;
    let wait = PERIOD;
    try {
      const response = await ask("metrics", { signal: AbortSignal.timeout(PATIENCE) });
      const now = parse(await response.text(), performance.now() / 1000);
      if (mine !== turn || paused()) return;
      show(now);
      tell("live");
    } catch (error) {
      if (mine !== turn) return;
      tell(error);
      // Without a key there is nothing to ask again: `start` is called when there is one.
      if (error.status === 401) return;
      wait = 2 * PERIOD;
    }
    timer = setTimeout(read, wait);
  }

  pause.addEventListener("click", () => {
    pause.setAttribute("aria-pressed", String(!paused()));
    if (paused()) tell("paused");
    read();
  });
  document.addEventListener("visibilitychange", read);

  function reset() {
    for (const chart of charts) {
      chart.points = [];
      chart.draw([]);
    }
    readings = [];
  }

  return { start: read, reset };
}
