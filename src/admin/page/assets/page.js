// The status page: each part of the status has an event, and a function that shows it.

import { connect } from "./events.js";
import * as plots from "./plots.js";
import { kept } from "./problems.js";
import { sharing } from "./replicas.js";
import * as tables from "./tables.js";

const connection = document.getElementById("connection");

function tellState(state, className) {
  if (connection.textContent !== state) connection.textContent = state;
  connection.className = className;
  document.body.classList.toggle("stale", className === "bad");
}

connect({
  gateway: tables.gateway,
  backends: tables.backends,
  queue: tables.queue,
  waiting: tables.waiting,
  cloud: tables.cloud,
  models: tables.models,
  models_sync: tables.modelsSync,
  state: kept,
  sharing,
  requests: tables.requests,
  clients: tables.clients,
  keys: tables.keys,
  intervals: (rows) => {
    const length = rows[1].at - rows[0].at;
    tables.intervals(rows, length);
    plots.intervals(rows, length);
  },
}, tellState);
