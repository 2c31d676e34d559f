// The lines at the top: what an operator must act on, and quietly what changes soon.

import { clock, text } from "./format.js";
import { write } from "./rows.js";

const SOON = 7 * 86_400_000;

// Shows a line, or hides it if it is null.
function line(id, said, className) {
  const place = document.getElementById(id);
  if (said !== null) write(place, said, className);
  else if (place.textContent !== "") write(place, "");
  place.hidden = said === null;
}

const day = (time) => text(time).slice(0, 10);

export function gateway(state) {
  log(state.log_problem);
  reload(state.last_reload);
  expiringKeys(state.expiring_keys);
  certificate(state.tls);
}

// The last reload: when it was, and what came of it.
function reload(last) {
  if (last === null) {
    line("reload", null);
    return;
  }
  const at = clock(last.at);
  if (!last.is_applied) {
    const errors = (last.error ?? "").split("\n").map(text).join("; ");
    line("reload", `${at}: the settings could not be reloaded, and the old ones stay in force: ${errors}`, "bad");
    return;
  }
  const changed = last.changed.length === 0 ? "nothing has changed" : `changed: ${text(last.changed.join(", "))}`;
  const rest = last.need_restart.length === 0 ? "" : `; changed, but needs a restart: ${text(last.need_restart.join(", "))}`;
  line("reload", `${at}: the settings were reloaded; ${changed}${rest}`, rest === "" ? "hint" : "warned");
}

function log(problem) {
  line("log-problem", problem === null ? null : `The log cannot be written, and its lines are lost: ${text(problem)}`, "bad");
}

function expiringKeys(keys) {
  const expired = keys.filter((key) => key.is_expired);
  const soon = keys.filter((key) => !key.is_expired);
  const names = (rows) => rows.map((key) => `${text(key.name)} (${day(key.expires_at)})`).join(", ");
  const parts = [];
  if (expired.length > 0) parts.push(`Expired keys are refused; extend or remove them: ${names(expired)}`);
  if (soon.length > 0) parts.push(`Keys that expire soon: ${names(soon)}`);
  line("expiring-keys", parts.length === 0 ? null : parts.join(". "), expired.length > 0 ? "bad" : "warned");
}

function certificate(tls) {
  if (tls === null) {
    line("certificate", null);
    return;
  }
  const left = new Date(tls.expires_at) - Date.now();
  const parts = [];
  if (tls.error !== null) {
    parts.push(`its new files cannot be used, and the one from before is in force: ${text(tls.error)}`);
  }
  if (left <= 0) parts.push(`it has expired on ${day(tls.expires_at)}`);
  else parts.push(`it expires on ${day(tls.expires_at)}`);
  line("certificate", `TLS certificate: ${parts.join("; ")}`, tls.error !== null || left <= SOON ? "bad" : "hint");
}

// Whether usage is kept is said only if it should be and is not.
export function kept(state) {
  const said = state.problem === null
    ? null : `Usage, token budgets and cordons are not kept over a restart: ${text(state.problem)}`;
  line("not-kept", said, "bad");
}

// What happens while Redis does not answer, or refuses calls.
export function redis(state) {
  if (state === null || (state.is_connected && state.problem === null)) {
    line("redis-problem", null);
    return;
  }
  const what = state.is_connected ? "Redis refuses calls" : `Redis is not connected since ${clock(state.since)}`;
  const meanwhile = `requests with a rate limit are ${text(state.requests_meanwhile)}, `
    + `and requests with a token limit are ${text(state.tokens_meanwhile)}`;
  line("redis-problem", `${what}: ${text(state.problem)}. Meanwhile, ${meanwhile}`, "bad");
}
