#!/usr/bin/env bash
# npm openai 6.49.0 asks for embeddings in base64 unless the program names an `encoding_format`, and decodes what comes
# without a look. A server that answers with plain numbers, as one that does not know this field does, gives the
# program vectors of a quarter of the length and of nonsense: each number becomes a byte, and four of them a
# float. Nothing fails. @langchain/openai 1.5.8 is built on it and does the same. Python openai 2.54.0 and @ai-sdk/openai-compatible 2.0.92 take the
# numbers as they are.
#
# So a search over such vectors finds anything, and its index is worthless although each call succeeded. What helps
# is `encoding_format: "float"` in the program, or a server that knows base64.
#
# Output seen (the server sends 0, 1.5, 2.5, 3.5):
#   npm openai: 1 number, as sent false
#   npm openai, float: 4 numbers, as sent true
#   @langchain/openai: 1 number, as sent false
#   @ai-sdk/openai-compatible: 4 numbers, as sent true
#   py openai: 4 numbers, as sent true
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-save --no-audit --no-fund openai@6.49.0 @langchain/openai@1.5.8 @langchain/core@1.4.0 \
    @ai-sdk/openai-compatible@2.0.92 ai@6.0.326 zod@4.6.7
python3 -m venv venv
venv/bin/pip install -q openai==2.54.0
cat > ask.py <<'PY'
import json
import sys

import openai

print(json.dumps(openai.OpenAI(base_url=sys.argv[1], api_key="x").embeddings.create(model="m", input="a").data[0].embedding))
PY
cat > ask.mjs <<'JS'
import { execFile } from "node:child_process";
import http from "node:http";
import { promisify } from "node:util";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { OpenAIEmbeddings } from "@langchain/openai";
import { embed } from "ai";
import OpenAI from "openai";

const SENT = [0, 1.5, 2.5, 3.5];
const server = http.createServer((request, response) => {
  request.resume().on("end", () => {
    response.setHeader("content-type", "application/json");
    const data = [{ object: "embedding", index: 0, embedding: SENT }];
    response.end(JSON.stringify({ object: "list", model: "m", data, usage: { prompt_tokens: 1, total_tokens: 1 } }));
  });
});
await new Promise((listening) => server.listen(0, "127.0.0.1", listening));
const baseURL = `http://127.0.0.1:${server.address().port}/v1`;

function show(name, vector) {
  const numbers = `${vector.length} number${vector.length === 1 ? "" : "s"}`;
  console.log(`${name}: ${numbers}, as sent ${JSON.stringify([...vector]) === JSON.stringify(SENT)}`);
}

const client = new OpenAI({ baseURL, apiKey: "x" });
const ask = async (more) => (await client.embeddings.create({ model: "m", input: "a", ...more })).data[0].embedding;
show("npm openai", await ask({}));
show("npm openai, float", await ask({ encoding_format: "float" }));
const langchain = new OpenAIEmbeddings({ model: "m", apiKey: "x", configuration: { baseURL } });
show("@langchain/openai", await langchain.embedQuery("a"));
const vercel = createOpenAICompatible({ name: "x", baseURL }).textEmbeddingModel("m");
show("@ai-sdk/openai-compatible", (await embed({ model: vercel, value: "a" })).embedding);
const python = await promisify(execFile)("venv/bin/python", ["ask.py", baseURL]);
show("py openai", JSON.parse(python.stdout));
server.close();
server.closeAllConnections();
JS
seen="$(node ask.mjs 2> ask.log)" || { cat ask.log; exit 1; }
echo "$seen"
expected="npm openai: 1 number, as sent false
npm openai, float: 4 numbers, as sent true
@langchain/openai: 1 number, as sent false
@ai-sdk/openai-compatible: 4 numbers, as sent true
py openai: 4 numbers, as sent true"
[ "$seen" = "$expected" ] || { echo "this has changed; expected:"; echo "$expected"; exit 1; }
