// What an operator can do, each after a confirmation.

import { text } from "./format.js";
import { element } from "./rows.js";

const dialog = () => document.getElementById("dialog");

function open(title, content, yes) {
  document.getElementById("dialog-title").textContent = title;
  document.getElementById("dialog-text").replaceChildren(...content);
  const button = document.getElementById("dialog-yes");
  button.hidden = !yes;
  button.textContent = yes ?? "";
  dialog().returnValue = "no";
  dialog().showModal();
  return new Promise((done) => {
    dialog().addEventListener("close", () => done(dialog().returnValue === "yes"), { once: true });
  });
}

export function tell(title, ...content) {
  return open(title, content, null);
}

export function announce(message) {
  document.getElementById("announcements").textContent = message;
}

async function post(path) {
  try {
    const response = await fetch(path, { method: "POST" });
    if (!response.ok) await tell("This did not work", element("p", "", text(await response.text())));
    return response.ok;
  } catch (error) {
    await tell("The gateway does not answer", element("p", "", text(error.message)));
    return false;
  }
}

// The name of a server as it stands in a path: its slashes, colons and brackets stay.
const inPath = (name) => encodeURIComponent(name).replace(/%(2F|3A|5B|5D)/g, decodeURIComponent);

export async function cordon(server) {
  const effect = "It gets no new requests. Requests in progress go on, and those that wait use other servers.";
  if (!(await open(`Cordon ${text(server.name)}?`, [element("p", "", effect)], "Cordon"))) return;
  if (await post(`/backends/${inPath(server.name)}/cordon`)) announce(`${text(server.name)} is cordoned`);
}

export async function uncordon(server) {
  const effect = "It gets requests again.";
  if (!(await open(`Uncordon ${text(server.name)}?`, [element("p", "", effect)], "Uncordon"))) return;
  if (await post(`/backends/${inPath(server.name)}/uncordon`)) announce(`${text(server.name)} gets requests again`);
}

// Asks for one of these models; null if the operator has closed the dialog.
async function chosenModel(title, effect, models, yes, none) {
  if (models.length === 0) {
    await tell(title, element("p", "", none));
    return null;
  }
  const select = element("select", "", ...models.map((model) => {
    const option = element("option", "", text(model));
    option.value = model;
    return option;
  }));
  select.id = "dialog-model";
  const label = element("label", "", "Model");
  label.htmlFor = select.id;
  const isYes = await open(title, [element("p", "", effect), label, " ", select], yes);
  return isYes ? select.value : null;
}

export async function load(server, models) {
  const effect = "Requests for it go to this server as soon as it is in memory. The server may have to unload "
    + "another model, but none that is in use.";
  const title = `Load a model on ${text(server.name)}`;
  const model = await chosenModel(title, effect, models, "Load", "All of its models are in memory.");
  if (model === null) return;
  announce(`loading ${text(model)} on ${text(server.name)}`);
  const path = `/backends/${inPath(server.name)}/load?model=${encodeURIComponent(model)}`;
  if (await post(path)) announce(`${text(model)} is in the memory of ${text(server.name)}`);
}

export async function unload(server, models) {
  const effect = "It leaves memory after the requests that run it. The next request for it has to load it again.";
  const title = `Unload a model on ${text(server.name)}`;
  const model = await chosenModel(title, effect, models, "Unload", "No model is in its memory.");
  if (model === null) return;
  const path = `/backends/${inPath(server.name)}/unload?model=${encodeURIComponent(model)}`;
  if (await post(path)) announce(`${text(model)} leaves the memory of ${text(server.name)}`);
}

export async function cancel(waiter) {
  const effect = `The request of ${text(waiter.client)} for ${text(waiter.model)} ends with an error (503).`;
  if (!(await open("Cancel this request?", [element("p", "", effect)], "Cancel the request"))) return;
  if (await post(`/queue/${waiter.id}/cancel`)) announce("the request was cancelled");
}
