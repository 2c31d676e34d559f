#!/usr/bin/env bash
# npm genkitx-ollama 1.42.0: in a stream it parses each part that `fetch` gives as one JSON document. Two lines of NDJSON
# in one part, or a line in two parts, end the call with a SyntaxError. So it works as long as each line of the server
# arrives by itself, and fails when something on the way cuts the bytes elsewhere, as a proxy that buffers does.
# The same client makes the text "undefined" of a streamed tool call: the tool is not called, and the call ends well.
# Without streaming, the tool is called.
#
# For these users a gateway has to pass on the parts of its servers as they come, and a cache or a translation has to
# write and flush line by line.
#
# Output seen:
#   a line in each part: hello
#   two lines in a part: SyntaxError
#   a line in two parts: SyntaxError
#   a tool call: undefined
#   a tool call, without streaming: Oslo
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund genkit@1.42.0 genkitx-ollama@1.42.0
cat > ask.mjs <<'JS'
import { createServer } from "node:http";
import { setTimeout } from "node:timers/promises";
import { genkit } from "genkit";
import { ollama } from "genkitx-ollama";

const line = (message, done = false) =>
  JSON.stringify({ model: "m", message: { role: "assistant", content: "", ...message }, done }) + "\n";
const [first, second, end] = [line({ content: "hel" }), line({ content: "lo" }), line({}, true)];
const call = { tool_calls: [{ id: "call_0", function: { index: 0, name: "weather", arguments: { city: "Oslo" } } }] };
const streams = {
  "a line in each part": [first, second, end],
  "two lines in a part": [first + second, end],
  "a line in two parts": [first.slice(0, 20), first.slice(20), second, end],
  "a tool call": [line(call), end],
};
const server = createServer(async (request, response) => {
  let body = "";
  for await (const part of request) body += part;
  const { messages, stream } = JSON.parse(body);
  // The result of the tool is the answer.
  const result = messages.find((message) => message.role === "tool");
  if (!stream) return response.end(line(result ? { content: result.content } : call, true));
  for (const part of Object.values(streams)[request.url.split("/")[1]]) {
    response.write(part);
    await setTimeout(100);
  }
  response.end();
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));

const kit = (number) => {
  const serverAddress = `http://127.0.0.1:${server.address().port}/${number}`;
  const ai = genkit({ plugins: [ollama({ serverAddress, models: [{ name: "m", type: "chat", supports: { tools: true } }] })] });
  const schema = { type: "object", properties: { city: { type: "string" } } };
  const tool = ai.defineTool({ name: "weather", description: "w", inputJsonSchema: schema }, async ({ city }) => city);
  return [ai, { model: "ollama/m", prompt: "hi", config: {}, tools: [tool] }];
};
for (const [number, name] of Object.keys(streams).entries()) {
  const [ai, request] = kit(number);
  const streaming = ai.generateStream(request);
  try {
    for await (const _ of streaming.stream);
    console.log(`${name}: ${(await streaming.response).text}`);
  } catch (error) {
    streaming.response.catch(() => {});
    console.log(`${name}: ${error.name}`);
  }
}
const [ai, request] = kit(3);
console.log(`a tool call, without streaming: ${(await ai.generate(request)).text.replaceAll('"', "")}`);
process.exit(0);
JS
seen="$(node ask.mjs 2> /dev/null)"
echo "$seen"
expected="a line in each part: hello
two lines in a part: SyntaxError
a line in two parts: SyntaxError
a tool call: undefined
a tool call, without streaming: Oslo"
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
