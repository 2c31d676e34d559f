// The tables of the page: one function for each part of the status.

import { bytes, clock, count, expiry, rate, seconds, text } from "./format.js";
import { buttons, element, lines, show, write } from "./rows.js";
import * as problems from "./problems.js";
import { announce, cancel, cordon, load, tell, uncordon, unload } from "./actions.js";

const byId = (id) => document.getElementById(id);
const sum = (rows, of) => rows.reduce((total, row) => total + (of(row) ?? 0), 0);

// --- Now

const now = { servers: "–", waiting: 0, in_flight: "–", tokens: "–", cloud: null };

function showNow() {
  const facts = [
    ["Servers up", now.servers],
    ["Requests in flight", now.in_flight],
    ["Requests waiting", count(now.waiting)],
    ["Output tokens a second", now.tokens],
  ];
  if (now.cloud) facts.push(["Cloud tokens today", now.cloud]);
  const list = byId("now");
  if (list.children.length !== facts.length) {
    list.replaceChildren(...facts.map(() => element("div", "", element("dt"), element("dd"))));
  }
  facts.forEach(([name, value], index) => {
    write(list.children[index].children[0], name);
    write(list.children[index].children[1], value);
  });
}

let traceUrl = null;

export function gateway(state) {
  traceUrl = state.trace_url;
  now.in_flight = count(state.in_flight);
  showNow();
  problems.gateway(state);
  return state.is_draining ? "the gateway is about to end" : "live";
}

export function cloud(state) {
  if (!state.is_on) now.cloud = null;
  else {
    const limit = state.tokens_limit === null ? "" : ` of ${count(state.tokens_limit)}`;
    const rest = state.rests_for === null ? "" : `, rests for ${seconds(state.rests_for)}`;
    now.cloud = `${count(state.tokens_today)}${limit}${rest}`;
  }
  showNow();
}

export function intervals(rows, length) {
  const last = rows[rows.length - 1];
  now.tokens = last ? rate(last.output_tokens / length) : "–";
  showNow();
}

// --- Servers

const states = new Map();

// The state in words; the class is only a colour.
function stateOf(server) {
  if (!server.is_up) return ["down", "bad"];
  if (server.is_cordoned) return ["cordoned", "warned"];
  if (server.breaker !== "closed") return [`circuit breaker ${server.breaker.replace("_", "-")}`, "bad"];
  return ["up", "good"];
}

function inMemory(server) {
  if (server.resident === null) return [["not listed", "hint"]];
  const preloads = server.preloads.filter((row) => row.state !== "loaded");
  const loading = server.models.filter((row) => row.residency === "loading");
  return [
    ...server.resident.map((row) => {
      const facts = [bytes(row.size)];
      if (row.context_length) facts.push(`context ${count(row.context_length)}`);
      if (row.size_vram < row.size) facts.push(`${Math.round((100 * row.size_vram) / row.size)} % on GPUs`);
      const left = expiry(row.expires_at);
      if (left) facts.push(left);
      return [`${text(row.model)}: ${facts.join(", ")}`, ""];
    }),
    ...loading.map((row) => [`${text(row.model)}: loading`, "hint"]),
    ...preloads.map((row) => [`${text(row.model)}: preload ${text(row.state)}`, "hint"]),
  ];
}

function speed(server) {
  const rows = server.models.filter((row) => row.output_tokens_per_second !== null || row.load_seconds !== null);
  return rows.map((row) => {
    const facts = [];
    if (row.output_tokens_per_second !== null) facts.push(`${rate(row.output_tokens_per_second)} tokens/s`);
    if (row.load_seconds !== null) facts.push(`load ${seconds(row.load_seconds)}`);
    return [`${text(row.model)}: ${facts.join(", ")}`, ""];
  });
}

function flights(server) {
  const rows = server.models.filter((row) => row.in_flight > 0 || row.limit !== null);
  const of = (row) => (row.limit === null ? `${row.in_flight}` : `${row.in_flight} of ${row.limit}`);
  return [
    [count(server.in_flight), "strong"],
    ...rows.map((row) => [`${text(row.model)}: ${of(row)}${row.rests_for === null ? "" : ", rests"}`, ""]),
  ];
}

export function backends(servers) {
  for (const server of servers) {
    const [state] = stateOf(server);
    const before = states.get(server.name);
    if (before !== undefined && before !== state) announce(`${text(server.name)} is ${state}`);
    states.set(server.name, state);
  }
  now.servers = `${servers.filter((server) => server.is_up).length} of ${servers.length}`;
  showNow();
  show(byId("server-rows"), servers, 6, (server) => server.name, (cells, server) => {
    const [state, className] = stateOf(server);
    const labels = server.labels.map((label) => [text(label), "hint"]);
    const version = server.version ? [[`Ollama ${text(server.version)}`, "hint"]] : [];
    lines(cells[0], [[text(server.name), ""], ...version, ...labels]);
    const avoided = server.avoided.map((of) => [`avoided for ${text(of.model)}: ${of.reason}`, "hint"]);
    lines(cells[1], [[state, `state ${className}`], ...avoided]);
    lines(cells[2], flights(server));
    lines(cells[3], inMemory(server));
    lines(cells[4], speed(server));
    buttons(cells[5], actions(server));
  }, "There are no servers");
}

// The models on the disk of a server that are in memory, or are not.
function modelsOf(server, areInMemory) {
  const on = (row) => row.servers.find((of) => of.name === server.name);
  return allModels.filter((row) => on(row)?.is_in_memory === areInMemory).map((row) => row.model);
}

function actions(server) {
  const name = text(server.name);
  const isCordoned = server.is_cordoned;
  const cordoning = ["cordon", isCordoned ? "Uncordon" : "Cordon", name,
    () => (isCordoned ? uncordon(server) : cordon(server))];
  if (!server.is_ollama) return [cordoning];
  return [
    cordoning,
    ["load", "Load…", `a model on ${name}`, () => load(server, modelsOf(server, false))],
    ["unload", "Unload…", `a model on ${name}`, () => unload(server, modelsOf(server, true))],
  ];
}

// --- Queue

export function queue(rows) {
  now.waiting = sum(rows, (row) => row.waiting);
  showNow();
  show(byId("queue-rows"), rows, 5, (row) => row.model, (cells, row) => {
    write(cells[0], text(row.model));
    write(cells[1], count(row.waiting), "number");
    write(cells[2], count(row.in_flight), "number");
    write(cells[3], seconds(row.oldest), "number");
    write(cells[4], seconds(row.predicted_wait), "number");
  }, "No request is in progress");
}

export function waiting(rows) {
  show(byId("waiting-rows"), rows, 7, (row) => row.id, (cells, row) => {
    write(cells[0], text(row.client));
    write(cells[1], text(row.model));
    write(cells[2], row.priority);
    write(cells[3], seconds(row.waited), "number");
    write(cells[4], count(row.ahead), "number");
    write(cells[5], seconds(row.expected_wait), "number");
    buttons(cells[6], [["cancel", "Cancel", `the request of ${text(row.client)}`, () => cancel(row)]]);
  }, "Nobody waits", now.waiting - rows.length);
}

// --- Requests

function result(row) {
  if (row.ending === "cancelled") return ["cancelled by the client", "warned"];
  if (row.ending === "broken") return [`broken off${row.error ? `: ${row.error}` : ""}`, "bad"];
  if (row.status >= 500) return [`${row.status}${row.error ? `: ${row.error}` : ""}`, "bad"];
  if (row.status >= 400) return [`${row.status}${row.error ? `: ${row.error}` : ""}`, "warned"];
  return [row.status === null ? "no response" : String(row.status), ""];
}

export function why(terms) {
  if (terms.total === null) return "–";
  if (terms.total === 0) return "no cost is known yet";
  const parts = ["load", "wait", "work"].filter((name) => terms[name] > 0);
  const named = parts.map((name) => `${name} ${seconds(terms[name])}`);
  if (terms.affinity < 0) named.push(`cached prompt −${seconds(-terms.affinity)}`);
  return `${seconds(terms.total)}: ${named.join(" + ")}`;
}

export function requests(rows) {
  const key = (row) => `${row.request_id} ${row.ended_at}`;
  show(byId("request-rows"), rows, 11, key, (cells, row) => {
    const [ending, className] = result(row);
    const served = row.served_model === null ? [] : [[`by ${text(row.served_model)}`, "hint"]];
    const attempts = row.attempts > 1 ? [[`${row.attempts} attempts`, "hint"]] : [];
    const inCloud = row.cloud === null ? [] : [[`cloud: ${row.cloud}`, "hint"]];
    write(cells[0], clock(row.ended_at), "number");
    write(cells[1], text(row.client));
    lines(cells[2], [[text(row.model), ""], ...served]);
    lines(cells[3], [[ending, className], [row.route, "hint"]]);
    lines(cells[4], [[text(row.backend), ""], ...attempts, ...inCloud]);
    write(cells[5], why(row.terms));
    write(cells[6], seconds(row.queued), "number");
    write(cells[7], seconds(row.first_byte), "number");
    write(cells[8], seconds(row.duration), "number");
    const tokens = row.output_tokens === null ? "–" : `${count(row.prompt_tokens)} + ${count(row.output_tokens)}`;
    write(cells[9], tokens, "number");
    buttons(cells[10], [["details", "Details", `of the request of ${text(row.client)}`, () => details(row)]]);
  }, "No request has ended yet");
}

function facts(pairs) {
  const known = pairs.filter(([, value]) => value !== null && value !== undefined);
  return element("dl", "facts", ...known.flatMap(([name, value]) => [
    element("dt", "", name), element("dd", "", value instanceof Node ? value : text(value)),
  ]));
}

// The id of a trace: a link, if the gateway knows where traces are shown.
function trace(id) {
  if (id === null || traceUrl === null) return id;
  const link = element("a", "", id);
  link.href = traceUrl.replace("{trace_id}", id);
  link.rel = "noreferrer";
  link.target = "_blank";
  return link;
}

function candidates(decision) {
  const head = ["Server", "State", "Load", "Wait", "Work", "Cached", "Total"];
  const cells = (of) => [
    text(of.backend), of.state + (of.is_open ? "" : ", busy") + (of.was_tried ? ", tried before" : ""),
    seconds(of.load), seconds(of.wait), seconds(of.work),
    of.affinity ? `−${seconds(-of.affinity)}` : "–", seconds(of.total),
  ];
  const rows = decision.candidates.map((of) => element(
    "tr", of.backend === decision.backend ? "chosen" : "", ...cells(of).map((value) => element("td", "", value)),
  ));
  const heads = element("tr", "", ...head.map((name) => element("th", "", name)));
  return element("table", "", element("thead", "", heads), element("tbody", "", ...rows));
}

// The candidates of the choice, if it is among the last hundred.
async function choice(row) {
  if (row.decision === null) return [];
  try {
    const response = await fetch("/status/decisions");
    const { decisions } = await response.json();
    const decision = decisions.find((of) => of.id === row.decision);
    return decision ? [element("h3", "", "The servers it could go to"), candidates(decision)] : [];
  } catch {
    return [];
  }
}

async function details(row) {
  const known = facts([
    ["Route", row.route], ["Client", row.client], ["Model", row.model], ["Served by", row.served_model],
    ["Server", row.backend], ["Attempts", row.attempts], ["Ending", row.ending], ["Error", row.error],
    ["Request id", row.request_id], ["Trace id", trace(row.trace_id)],
  ]);
  await tell("Request", known, ...(await choice(row)));
}

// --- Models

// The number of models that are shown; the field above the table finds the others.
const MODELS = 500;

let allModels = [];

export function models(rows) {
  allModels = rows;
  showModels();
}

function showModels() {
  const wanted = byId("model-filter").value.trim().toLowerCase();
  const rows = allModels.filter((row) => row.model.toLowerCase().includes(wanted));
  const shown = rows.slice(0, MODELS);
  show(byId("model-rows"), shown, 4, (row) => row.model, (cells, row) => {
    const drift = row.digests_differ ? [["different models under this name", "warned"]] : [];
    lines(cells[0], [[text(row.model), ""], ...drift]);
    write(cells[1], bytes(Math.max(...row.servers.map((of) => of.size))), "number");
    write(cells[2], row.servers.map((of) => text(of.name)).join(", "));
    write(cells[3], row.servers.filter((of) => of.is_in_memory).map((of) => text(of.name)).join(", ") || "–");
  }, wanted ? "No model has this in its name" : "No server has a model", rows.length - shown.length);
}

byId("model-filter").addEventListener("input", showModels);

// --- Declared models

export function modelsSync(state) {
  byId("declared").hidden = !state.is_on;
  if (!state.is_on) return;
  write(byId("declared-every"), `Compared every ${seconds(state.every)}, and when a server comes up.`);
  show(byId("declared-rows"), state.servers, 3, (row) => row.name, (cells, row) => {
    const failed = row.failed.map((of) => [
      `${text(of.model)}: ${text(of.reason)}; next pull in ${seconds(of.retry_in)}`, "bad",
    ]);
    const pulling = row.pulling === null ? [] : [[`pulls ${text(row.pulling)}`, ""]];
    const pulled = row.pulled.map((of) => [`${text(of.model)}: pulled at ${clock(of.at)}`, "hint"]);
    write(cells[0], text(row.name));
    write(cells[1], row.state.replace("_", " "), row.state === "failed" ? "bad" : "");
    lines(cells[2], [...failed, ...pulling, ...pulled]);
  }, "No server has declared models");
}

// --- Keys

// The share of a budget from which it is about to be used up.
const NEARLY = 0.9;

function budget(row) {
  const share = row.limit === 0 ? 1 : row.used / row.limit;
  const told = `${count(row.used)} of ${count(row.limit)} in the ${row.window} (${Math.round(100 * share)} %)`;
  if (share >= 1) return [`${told}, used up`, "bad"];
  return [told, share >= NEARLY ? "warned" : ""];
}

function keyExpiry(time) {
  const day = time.slice(0, 10);
  return new Date(time) <= Date.now() ? `has expired on ${day}` : `expires on ${day}`;
}

function concurrency(row) {
  const waiting = row.waiting === 0 ? "" : `, ${count(row.waiting)} waiting`;
  return [`${count(row.running)} of ${count(row.limit)} requests at a time${waiting}`, row.waiting === 0 ? "" : "warned"];
}

export function keys(rows) {
  byId("keys").hidden = rows.length === 0;
  show(byId("key-rows"), rows, 3, (row) => row.name, (cells, row) => {
    write(cells[0], text(row.name));
    const does = row.is_admin ? "runs and manages models" : "runs models";
    write(cells[1], row.expires_at === null ? does : `${does}; ${keyExpiry(row.expires_at)}`);
    const limits = row.budgets.map(budget);
    if (row.concurrency) limits.push(concurrency(row.concurrency));
    lines(cells[2], limits.length === 0 ? [["no limit", "hint"]] : limits);
  }, "No key is set");
}

// --- Clients

export function clients(rows) {
  show(byId("client-rows"), rows, 5, (row) => row.client, (cells, row) => {
    write(cells[0], text(row.client));
    write(cells[1], count(row.requests), "number");
    write(cells[2], count(row.refused), "number");
    write(cells[3], count(row.prompt_tokens), "number");
    write(cells[4], count(row.output_tokens), "number");
  }, "No client has sent a request yet");
}
