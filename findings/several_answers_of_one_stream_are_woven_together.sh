#!/usr/bin/env bash
# OpenAI's API gives several answers to one request with `n`. In a stream their parts come in turns, each with the `index` of
# its answer. Python langchain-openai 1.7.4, llama-index-llms-openai-like 0.8.1 and npm @langchain/openai 1.5.8, which have `n`
# as a setting or pass it on, do not look at the index and append all parts to one text. The finish
# reasons are appended too, as in "stoplength". npm openai 6.49.0 and Python litellm 1.110.2 keep them apart; haystack-ai 3.4.1
# refuses `n` with streaming.
#
# So a program that turns on streaming with n=2 gets one answer, made of alternating words of two, without an error. What helps is n=1,
# and as many requests as answers.
#
# Output seen (the answers are "red rose", which ends with stop, and "blue sky", which ends with length):
#   langchain: "red blue rosesky", stoplength
#   llama-index: "red blue rosesky"
#   litellm: "red rose", "blue sky"
#   npm langchain: "red blue rosesky", stoplength
#   npm openai: "red rose", "blue sky"
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"; [ -z "${server:-}" ] || kill "$server"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install -q openai==2.54.0 langchain-openai==1.7.4 litellm==1.110.2 llama-index-llms-openai-like==0.8.1
npm install --silent --no-save --no-audit --no-fund openai@6.49.0 @langchain/openai@1.5.8 @langchain/core@1.4.0
cat > server.mjs <<'JS'
import { writeFileSync } from "node:fs";
import http from "node:http";

const part = (index, delta, finish_reason = null) => ({
  id: "c", object: "chat.completion.chunk", created: 1, model: "m", choices: [{ index, delta, finish_reason }],
});
const rows = [
  part(0, { role: "assistant", content: "red " }), part(1, { role: "assistant", content: "blue " }),
  part(0, { content: "rose" }), part(1, { content: "sky" }), part(0, {}, "stop"), part(1, {}, "length"),
];
const server = http.createServer((request, response) => {
  let body = "";
  request.on("data", (bytes) => (body += bytes)).on("end", () => {
    if (JSON.parse(body).n !== 2) throw new Error("n is missing");
    response.setHeader("content-type", "text/event-stream");
    response.end(rows.map((row) => `data: ${JSON.stringify(row)}\n\n`).join("") + "data: [DONE]\n\n");
  });
});
server.listen(0, "127.0.0.1", () => writeFileSync("base", `http://127.0.0.1:${server.address().port}/v1`));
JS
cat > ask.py <<'PY'
import sys

import litellm
from langchain_openai import ChatOpenAI
from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

litellm.suppress_debug_info = True
base = sys.argv[1]
whole = None
for part in ChatOpenAI(model="m", base_url=base, api_key="x", n=2).stream("hi"):
    whole = part if whole is None else whole + part
print(f'langchain: "{whole.content}", {whole.response_metadata["finish_reason"]}')
model = OpenAILike(model="m", api_base=base, api_key="x", is_chat_model=True, additional_kwargs={"n": 2})
print(f'llama-index: "{list(model.stream_chat([ChatMessage(role="user", content="hi")]))[-1].message.content}"')
messages = [{"role": "user", "content": "hi"}]
parts = list(litellm.completion("openai/m", api_base=base, api_key="x", messages=messages, stream=True, n=2))
print("litellm:", ", ".join(f'"{each.message.content}"' for each in litellm.stream_chunk_builder(parts).choices))
PY
cat > ask.mjs <<'JS'
import { ChatOpenAI } from "@langchain/openai";
import OpenAI from "openai";

const baseURL = process.argv[2];
let whole;
for await (const part of await new ChatOpenAI({ model: "m", apiKey: "x", n: 2, configuration: { baseURL } }).stream("hi")) {
  whole = whole ? whole.concat(part) : part;
}
console.log(`npm langchain: "${whole.content}", ${whole.response_metadata.finish_reason}`);
const messages = [{ role: "user", content: "hi" }];
const stream = new OpenAI({ baseURL, apiKey: "x" }).chat.completions.stream({ model: "m", messages, n: 2 });
const { choices } = await stream.finalChatCompletion();
console.log(`npm openai: ${choices.map((each) => `"${each.message.content}"`).join(", ")}`);
JS
node server.mjs &
server=$!
until [ -s base ]; do sleep 0.1; done
base="$(cat base)"
seen="$(LITELLM_LOCAL_MODEL_COST_MAP=True venv/bin/python ask.py "$base" 2> py.log)" || { cat py.log; exit 1; }
seen="$seen
$(node ask.mjs "$base" 2> js.log)" || { cat js.log; exit 1; }
echo "$seen"
expected='langchain: "red blue rosesky", stoplength
llama-index: "red blue rosesky"
litellm: "red rose", "blue sky"
npm langchain: "red blue rosesky", stoplength
npm openai: "red rose", "blue sky"'
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
