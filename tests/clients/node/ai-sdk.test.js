// Vercel's AI SDK with npm `ollama-ai-provider-v2`, which skips error lines: it sees how a stream ends.

import assert from "node:assert/strict";
import { test } from "node:test";
import { streamText } from "ai";
import { createOllama } from "ollama-ai-provider-v2";
import { all, FAST, HI, onEachStack, SLOW, take } from "./harness.js";

onEachStack("AI SDK", (stack, kind) => {
  const parts = (model, { url = stack.url, headers } = {}) => {
    const ollama = createOllama({ baseURL: `${url}/api`, headers });
    // Errors are parts of the stream; without this they are written to the console, too.
    const answer = streamText({ model: ollama(model), messages: HI, maxRetries: 0, onError: () => {} });
    return answer.fullStream;
  };

  test("a stream is text and a reason for its end", async () => {
    const seen = await all(parts(FAST));
    assert.ok(seen.some((part) => part.type === "text-delta"));
    assert.ok(["stop", "length"].includes(seen.at(-1).finishReason), seen.at(-1).finishReason);
  });

  test("a key is sent in a header, and without one the answer is an error", async (t) => {
    if (stack.needsGateway(t)) return;
    const key = "key-of-the-tests-0123456789abcdef";
    const url = await stack.gatewayWith({ LLAMATOWER_API_KEYS: key });
    const headers = { Authorization: `Bearer ${key}` };
    assert.ok((await all(parts(FAST, { url, headers }))).at(-1).finishReason);
    const refused = (await all(parts(FAST, { url }))).find((part) => part.type === "error");
    assert.equal(refused.error.statusCode, 401);
  });

  // The last one: it takes the stack down.
  test("a backend killed in mid-stream is an error", async (t) => {
    if (stack.needsGateway(t)) return;
    await stack.start(kind);
    const stream = parts(SLOW)[Symbol.asyncIterator]();
    await take(stream, 6);
    await stack.killHolder(SLOW);
    await assert.rejects(all({ [Symbol.asyncIterator]: () => stream }), { message: "terminated" });
  });
});
