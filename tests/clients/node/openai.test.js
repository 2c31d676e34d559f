// npm `openai`, against the /v1 routes.

import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { ABSENT, all, ENDLESS, FAST, HI, onEachStack, SLOW, take, WEATHER } from "./harness.js";

onEachStack("npm openai", (stack, kind) => {
  const at = (url, apiKey = "unused") =>
    new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
  const client = () => at(stack.url);
  const endless = { model: SLOW, messages: HI, max_tokens: ENDLESS, stream: true };

  test("models are listed and retrieved", async () => {
    const ids = (await all(client().models.list())).map((row) => row.id);
    assert.ok(ids.includes(`${FAST}:latest`) && ids.includes(`${SLOW}:latest`));
    assert.equal((await client().models.retrieve(FAST)).id, FAST);
  });

  test("a model is retrieved by its name with a tag, which the library encodes", async () => {
    assert.equal((await client().models.retrieve(`${FAST}:latest`)).id, `${FAST}:latest`);
  });

  test("a base URL with a slash too many works", async () => {
    const ask = { model: FAST, messages: HI, max_tokens: 2 };
    for (const url of [`${stack.url}/`, `${stack.url}//`]) {
      const answer = await at(url).chat.completions.create(ask);
      assert.ok(answer.choices[0].message.content);
    }
  });

  test("a page's preflight allows every header that the library sends", async () => {
    const sent = new Set();
    const library = new OpenAI({
      baseURL: `${stack.url}/v1`,
      apiKey: "unused",
      organization: "o",
      project: "p",
      dangerouslyAllowBrowser: true,
      fetch: (url, init) => {
        for (const name of new Headers(init.headers).keys()) sent.add(name);
        return fetch(url, init);
      },
    });
    await library.chat.completions.create({ model: FAST, messages: HI, max_tokens: 2 });
    await library.models.list();
    assert.ok(sent.has("x-stainless-lang") && sent.has("openai-organization"));
    const preflight = await fetch(`${stack.url}/v1/chat/completions`, {
      method: "OPTIONS",
      headers: {
        Origin: "http://localhost:5173",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": [...sent].join(","),
      },
    });
    assert.equal(preflight.status, 204);
    const allowed = preflight.headers.get("access-control-allow-headers").toLowerCase().split(",");
    const of_anthropic = [
      "x-api-key",
      "anthropic-version",
      "anthropic-beta",
      "anthropic-dangerous-direct-browser-access",
    ];
    for (const name of [...sent, ...of_anthropic]) assert.ok(allowed.includes(name), name);
  });

  test("chat, whole and streamed", async () => {
    const ask = { model: FAST, messages: HI, max_tokens: 5 };
    const answer = await client().chat.completions.create(ask);
    assert.ok(answer.choices[0].message.content);
    assert.equal(answer.usage.completion_tokens, 5);
    const chunks = await all(
      await client().chat.completions.create({
        ...ask,
        stream: true,
        stream_options: { include_usage: true },
      }),
    );
    assert.equal(chunks.at(-2).choices[0].finish_reason, "length");
    assert.equal(chunks.at(-1).usage.completion_tokens, 5);
  });

  test("each chunk has the alias that was asked for", async (t) => {
    if (stack.needsGateway(t)) return;
    const model = "gpt-4o-mini";
    const aliased = at(await stack.gatewayWith({ LLAMATOWER_ALIASES: `${model}=${FAST}` }));
    const ask = { model, messages: HI, max_tokens: 5 };
    const chunks = await all(await aliased.chat.completions.create({ ...ask, stream: true }));
    assert.ok(chunks.length > 1);
    for (const answer of [await aliased.chat.completions.create(ask), ...chunks]) {
      assert.equal(answer.model, model);
    }
  });

  test("tools", async () => {
    const answer = await client().chat.completions.create({
      model: FAST,
      messages: HI,
      tools: [WEATHER],
      max_tokens: 8,
    });
    assert.equal(answer.choices[0].message.role, "assistant");
  });

  test("embeddings", async () => {
    const answer = await client().embeddings.create({ model: FAST, input: ["the", "a"] });
    assert.deepEqual(answer.data.map((row) => row.embedding.length), [64, 64]);
  });

  test("responses, whole and streamed", async () => {
    const ask = { model: FAST, input: "the llama", max_output_tokens: 5 };
    assert.ok((await client().responses.create(ask)).output_text);
    const events = await all(await client().responses.create({ ...ask, stream: true }));
    assert.match(events.at(-1).type, /^response\.(completed|incomplete)$/);
  });

  test("a missing model is a NotFoundError", async () => {
    for (const call of [
      () => client().chat.completions.create({ model: ABSENT, messages: HI }),
      () => client().chat.completions.create({ model: ABSENT, messages: HI, stream: true }),
      () => client().embeddings.create({ model: ABSENT, input: "the" }),
      () => client().models.retrieve(ABSENT),
    ]) {
      await assert.rejects(call(), (error) => error instanceof OpenAI.NotFoundError);
    }
  });

  test("a stream arrives event by event and its abort reaches the backend", async (t) => {
    const watch = await stack.watch(t, "/v1/chat/completions");
    if (!watch) return;
    const stream = await client().chat.completions.create(endless);
    const chunks = stream[Symbol.asyncIterator]();
    await take(chunks, 3);
    assert.ok(await watch.stillUnderWay(), "events were held back");
    stream.controller.abort();
    await watch.waitForCancel();
  });

  test("comments before a stream that is late are skipped", async (t) => {
    if (stack.needsGateway(t)) return;
    const url = await stack.gatewayWith({ LLAMATOWER_HEARTBEAT: "1ms" });
    const ask = { ...endless, max_tokens: 3 };
    const answer = await fetch(`${url}/v1/chat/completions`, {
      method: "POST",
      body: JSON.stringify(ask),
    });
    assert.match(await answer.text(), /^: waiting for the response\n\n/);
    const chunks = await all(await at(url).chat.completions.create(ask));
    assert.equal(chunks.at(-1).choices[0].finish_reason, "length");
    const events = await all(
      await at(url).responses.create({ model: SLOW, input: "the", max_output_tokens: 3, stream: true }),
    );
    assert.equal(events[0].type, "response.created");
    assert.match(events.at(-1).type, /^response\.(completed|incomplete)$/);
  });

  test("a key is sent as a bearer token, and a wrong one is an AuthenticationError", async (t) => {
    if (stack.needsGateway(t)) return;
    const key = "key-of-the-tests-0123456789abcdef";
    const url = await stack.gatewayWith({ LLAMATOWER_API_KEYS: key });
    assert.ok((await all(at(url, key).models.list())).length);
    await assert.rejects(
      all(at(url, "wrong").models.list()),
      (error) => error instanceof OpenAI.AuthenticationError,
    );
  });

  // The last one: it takes the stack down.
  test("a backend killed in mid-stream is an APIError, and the other one takes over", async (t) => {
    if (stack.needsGateway(t)) return;
    await stack.start(kind);
    const stream = await client().chat.completions.create(endless);
    const chunks = stream[Symbol.asyncIterator]();
    await take(chunks, 3);
    await stack.killHolder(SLOW);
    await assert.rejects(
      all(chunks),
      (error) =>
        error instanceof OpenAI.APIError && !(error instanceof OpenAI.APIConnectionError),
    );
    const next = await client().chat.completions.create({ ...endless, max_tokens: 3, stream: false });
    assert.equal(next.usage.completion_tokens, 3);
  });
});
