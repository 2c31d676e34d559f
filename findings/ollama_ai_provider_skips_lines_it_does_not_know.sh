#!/usr/bin/env bash
# npm ollama-ai-provider-v2 3.6.0 (with ai 6.0.326): a line of a stream that does not match its schema is written to the console and
# skipped. The line `{"error":".."}`, by which Ollama reports a failure in the middle of a stream, is such a line: the
# call ends without an error, with the text so far and the finish reason `other`. So is each line without `created_at`, and
# each line without `content`, a tool call for example. Text in the last line gives an error of the AI SDK, "text part ..
# not found", and is missing in the `text` of the result. npm ollama 0.6.4 reports the error line and reads the others.
#
# So half an answer looks like an answer to these users, and a server that leaves out a field which nobody else reads looks
# like a model that says nothing. What helps: a program must take the finish reason `other` for a failure, and a
# translation must write `created_at` and `content` in each line, and no text in the last one.
#
# Output seen:
#   provider: an error line: "hel", finish other
#   provider: without created_at: "", finish other
#   provider: a call without content: "", finish stop
#   provider: text in the last line: "hel", error, finish stop
#   ollama: an error line: "hel", error
#   ollama: without created_at: "hello"
#   ollama: a call without content: "", weather
#   ollama: text in the last line: "hello"
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
cat > ask.mjs << 'JS'
import { createServer } from "node:http";
import { jsonSchema, streamText, tool } from "ai";
import { Ollama } from "ollama";
import { createOllama } from "ollama-ai-provider-v2";

const created = { created_at: "2026-01-01T00:00:00Z" };
const end = { done: true, done_reason: "stop", prompt_eval_count: 3, eval_count: 2 };
const line = (message, rest) => ({ model: "m", message: { role: "assistant", ...message }, done: false, ...rest });
const call = { id: "call_0", function: { index: 0, name: "weather", arguments: { city: "Oslo" } } };
const streams = {
  "an error line": [line({ content: "hel" }, created), { error: "the model is gone" }],
  "without created_at": [line({ content: "hel" }), line({ content: "lo" }), line({ content: "" }, end)],
  "a call without content": [line({ tool_calls: [call] }, created), line({ content: "" }, { ...created, ...end })],
  "text in the last line": [line({ content: "hel" }, created), line({ content: "lo" }, { ...created, ...end })],
};
const server = createServer((request, response) => {
  request.resume().on("end", () => {
    response.setHeader("content-type", "application/x-ndjson");
    for (const row of Object.values(streams)[request.url.split("/")[1]]) response.write(JSON.stringify(row) + "\n");
    response.end();
  });
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const url = (number) => `http://127.0.0.1:${server.address().port}/${number}`;
const inputSchema = jsonSchema({ type: "object", properties: { city: { type: "string" } } });

async function provider(number) {
  const model = createOllama({ baseURL: `${url(number)}/api` })("m");
  const tools = { weather: tool({ description: "w", inputSchema }) };
  const seen = [];
  const answer = streamText({ model, tools, prompt: "hi", maxRetries: 0, onError() {} });
  for await (const part of answer.fullStream) {
    if (part.type === "tool-call") seen.push(part.toolName);
    if (part.type === "error") seen.push("error");
    if (part.type === "finish") seen.push(`finish ${part.finishReason}`);
  }
  return [JSON.stringify(await answer.text), ...seen];
}

async function ollama(number) {
  const client = new Ollama({ host: url(number) });
  const seen = [];
  let text = "";
  try {
    for await (const part of await client.chat({ model: "m", messages: [{ role: "user", content: "hi" }], stream: true })) {
      text += part.message.content ?? "";
      for (const { function: made } of part.message.tool_calls ?? []) seen.push(made.name);
    }
  } catch {
    seen.push("error");
  }
  return [JSON.stringify(text), ...seen];
}

for (const client of [provider, ollama])
  for (const [number, name] of Object.keys(streams).entries())
    console.log(`${client.name}: ${name}: ${(await client(number)).join(", ")}`);
process.exit();
JS
npm install --silent --no-audit --no-fund ai@6.0.326 ollama-ai-provider-v2@3.6.0 ollama@0.6.4
seen="$(node ask.mjs 2> /dev/null)"
echo "$seen"
expected='provider: an error line: "hel", finish other
provider: without created_at: "", finish other
provider: a call without content: "", finish stop
provider: text in the last line: "hel", error, finish stop
ollama: an error line: "hel", error
ollama: without created_at: "hello"
ollama: a call without content: "", weather
ollama: text in the last line: "hello"'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
