// The status page: each part of the status has an event, and a function that shows it.

import { connect } from "./events.js";
import * as plots from "./plots.js";
import * as tables from "./tables.js";

// The length of an interval of the plots, in seconds.
const INTERVAL = 5;

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
  requests: tables.requests,
  clients: tables.clients,
  intervals: (rows) => {
    tables.intervals(rows, INTERVAL);
    plots.intervals(rows, INTERVAL);
  },
}, tellState);
