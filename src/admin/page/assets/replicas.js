// The gateways that share limits or divide them. Nothing is shown if this one is alone.

import { announce } from "./actions.js";
import { clock, count, seconds, text } from "./format.js";
import { lines, show, write } from "./rows.js";
import * as problems from "./problems.js";

const byId = (id) => document.getElementById(id);
let wasConnected = null;

function how(state) {
  const gateways = state.gateways === 1 ? "1 gateway" : `${count(state.gateways)} gateways`;
  if (state.redis === null) return `${gateways}, counted by the addresses of ${text(state.peers)}: limits are divided`;
  const counted = state.peers === null ? "" : `, counted by the addresses of ${text(state.peers)}`;
  const since = clock(state.redis.since);
  const connected = state.redis.is_connected ? `connected since ${since}` : `not connected since ${since}`;
  return `${gateways}${counted}; limits, usage and cordons are shared through ${text(state.redis.address)}, ${connected}`;
}

function tellRedis(redis) {
  const isConnected = redis === null ? null : redis.is_connected;
  if (wasConnected !== null && isConnected !== null && wasConnected !== isConnected) {
    announce(isConnected ? "Redis is connected" : "Redis is not connected");
  }
  wasConnected = isConnected;
}

export function sharing(state) {
  problems.redis(state.redis);
  tellRedis(state.redis);
  byId("replicas").hidden = state.redis === null && state.peers === null;
  write(byId("replicas-how"), how(state), "hint");
  byId("replica-table").hidden = state.redis === null;
  show(byId("replica-rows"), state.registered, 6, (row) => row.id, (cells, row) => {
    const notes = [];
    if (row.is_this) notes.push(["this gateway", "hint"]);
    if (row.is_draining) notes.push(["about to end", "warned"]);
    lines(cells[0], [[text(row.host || row.id), ""], ...notes]);
    write(cells[1], text(row.address));
    write(cells[2], text(row.version));
    write(cells[3], count(row.in_flight), "number");
    write(cells[4], count(row.waiting), "number");
    const seen = row.seen_ago === 0 ? "now" : `${seconds(row.seen_ago)} ago`;
    write(cells[5], seen, row.seen_ago === 0 ? "number" : "number warned");
  }, "No gateway has registered itself yet", state.not_listed);
}
