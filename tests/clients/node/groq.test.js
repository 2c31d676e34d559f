// npm `groq-sdk`, whose paths all begin with /openai/v1.

import assert from "node:assert/strict";
import { test } from "node:test";
import Groq from "groq-sdk";
import { ABSENT, all, CLOUD_MODEL, ENDLESS, FAST, HI, onEachStack, SLOW, take, WEATHER } from "./harness.js";

const KEY = "key-of-the-tests-0123456789abcdef";

onEachStack("npm groq-sdk", (stack, kind) => {
  const at = (baseURL, apiKey = "unused") => new Groq({ baseURL, apiKey, maxRetries: 0 });
  // Plain Ollama has no path that this client asks for.
  const withGateway = (name, run) =>
    test(name, async (t) => {
      if (!stack.needsGateway(t)) await run(at(stack.url), t);
    });

  withGateway("models are listed and retrieved", async (client) => {
    const ids = (await client.models.list()).data.map((row) => row.id);
    assert.ok(ids.includes(`${FAST}:latest`) && ids.includes(`${SLOW}:latest`));
    assert.equal((await client.models.retrieve(FAST)).id, FAST);
    assert.equal((await client.models.retrieve(`${FAST}:latest`)).id, `${FAST}:latest`);
  });

  withGateway("chat, whole and streamed", async (client) => {
    const ask = { model: FAST, messages: HI, max_tokens: 5 };
    const answer = await client.chat.completions.create(ask);
    assert.ok(answer.choices[0].message.content);
    assert.equal(answer.usage.completion_tokens, 5);
    const options = { stream: true, stream_options: { include_usage: true } };
    const chunks = await all(await client.chat.completions.create({ ...ask, ...options }));
    assert.equal(chunks.at(-2).choices[0].finish_reason, "length");
    assert.equal(chunks.at(-1).usage.completion_tokens, 5);
  });

  withGateway("tools", async (client) => {
    const ask = { model: FAST, messages: HI, tools: [WEATHER], max_tokens: 8 };
    const answer = await client.chat.completions.create(ask);
    assert.equal(answer.choices[0].message.role, "assistant");
  });

  withGateway("embeddings", async (client) => {
    const answer = await client.embeddings.create({ model: FAST, input: ["the", "a"] });
    assert.deepEqual(answer.data.map((row) => row.embedding.length), [64, 64]);
  });

  withGateway("a missing model is a NotFoundError with its name", async (client) => {
    const ask = { model: ABSENT, messages: HI };
    const is_missing = (error) => error instanceof Groq.NotFoundError && error.message.includes(ABSENT);
    await assert.rejects(client.chat.completions.create(ask), is_missing);
    await assert.rejects(client.chat.completions.create({ ...ask, stream: true }), is_missing);
    await assert.rejects(client.models.retrieve(ABSENT), is_missing);
  });

  withGateway("a key is sent, and a wrong one is an AuthenticationError", async () => {
    const url = await stack.gatewayWith({ LLAMATOWER_API_KEYS: KEY });
    assert.ok((await at(url, KEY).models.list()).data.length);
    await assert.rejects(at(url, "wrong").models.list(), Groq.AuthenticationError);
  });

  withGateway("a stream's abort reaches the backend", async (client, t) => {
    const watch = await stack.watch(t, "/v1/chat/completions");
    if (!watch) return;
    const ask = { model: SLOW, messages: HI, max_tokens: ENDLESS, stream: true };
    const stream = await client.chat.completions.create(ask);
    await take(stream[Symbol.asyncIterator](), 6);
    assert.ok(await watch.stillUnderWay(), "events were held back");
    stream.controller.abort();
    await watch.waitForCancel();
  });

  withGateway("what the cloud says about itself comes through", async () => {
    const client = at(await stack.cloudGateway());
    const ask = { model: CLOUD_MODEL, messages: HI };
    assert.equal((await client.chat.completions.create(ask)).x_groq.id, "req_1");
    const chunks = await all(await client.chat.completions.create({ ...ask, stream: true }));
    assert.equal(chunks[0].x_groq.id, "req_1");
    assert.equal(chunks.at(-1).x_groq.usage.completion_tokens, 5);
    const broken = { ...ask, messages: [{ role: "user", content: "break off" }], stream: true };
    await assert.rejects(all(await client.chat.completions.create(broken)), /over capacity/);
  });

  // The last one: it takes the stack down.
  withGateway("a backend killed in mid-stream is an APIError", async () => {
    await stack.start(kind);
    const ask = { model: SLOW, messages: HI, max_tokens: ENDLESS, stream: true };
    const stream = await at(stack.url).chat.completions.create(ask);
    const parts = stream[Symbol.asyncIterator]();
    await take(parts, 3);
    await stack.killHolder(SLOW);
    await assert.rejects(all({ [Symbol.asyncIterator]: () => parts }), Groq.APIError);
  });
});
