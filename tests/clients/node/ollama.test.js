// npm `ollama`.

import assert from "node:assert/strict";
import { test } from "node:test";
import { Ollama } from "ollama";
import { ABSENT, all, ENDLESS, FAST, HI, onEachStack, SLOW, take, TRANSLATED, WEATHER } from "./harness.js";

const ADMIN_KEY = "admin-key-of-the-tests-0123456789abcdef";
const KEY = "key-of-the-tests-0123456789abcdef";
const bearer = (key) => ({ Authorization: `Bearer ${key}` });
const short = { num_predict: 5 };

onEachStack("npm ollama", (stack, kind) => {
  const at = (host, key) => new Ollama({ host, headers: key && bearer(key) });
  const client = () => at(stack.url);
  // OpenAI's dialect has no details of a model, and no management.
  const isTranslated = kind === TRANSLATED;

  test("list, ps, show and version", async () => {
    await client().generate({ model: FAST, prompt: "the" });
    const names = (await client().list()).models.map((row) => row.name);
    assert.ok(names.includes(`${FAST}:latest`) && names.includes(`${SLOW}:latest`));
    const loaded = (await client().ps()).models.map((row) => row.name);
    assert.ok(loaded.includes(`${FAST}:latest`));
    const { details } = await client().show({ model: FAST });
    assert.equal(details.format, isTranslated ? "" : "gguf");
    assert.match((await client().version()).version, /^\d+\.\d+\.\d+/);
  });

  test("chat and generate, whole", async () => {
    const chat = await client().chat({ model: FAST, messages: HI, options: short });
    assert.ok(chat.message.content && chat.done);
    assert.equal(chat.eval_count, 5);
    const generated = await client().generate({ model: FAST, prompt: "the", options: short });
    assert.ok(generated.response && generated.done);
  });

  test("a chat stream is parts and a last one with counts", async () => {
    const parts = await all(
      await client().chat({ model: FAST, messages: HI, stream: true, options: short }),
    );
    assert.ok(parts.length > 1 && parts.at(-1).done);
    assert.equal(parts.at(-1).eval_count, 5);
  });

  test("embed one and many", async () => {
    const one = await client().embed({ model: FAST, input: "the" });
    const many = await client().embed({ model: FAST, input: ["the", "a"] });
    assert.deepEqual([one, many].map((answer) => answer.embeddings.length), [1, 2]);
    assert.equal(one.embeddings[0].length, 64);
  });

  test("tools", async () => {
    const answer = await client().chat({
      model: FAST,
      messages: HI,
      tools: [WEATHER],
      options: short,
    });
    assert.equal(answer.message.role, "assistant");
  });

  test("a missing model is a ResponseError with its status", async () => {
    for (const call of [
      () => client().chat({ model: ABSENT, messages: HI }),
      () => client().generate({ model: ABSENT, prompt: "the", stream: true }),
      () => client().show({ model: ABSENT }),
    ]) {
      await assert.rejects(call(), { name: "ResponseError", status_code: 404, message: /not found/ });
    }
  });

  test("a stream arrives line by line and its abort reaches the backend", async (t) => {
    const watch = await stack.watch(t, "/api/chat");
    if (!watch) return;
    const stream = await client().chat({
      model: SLOW,
      messages: HI,
      stream: true,
      options: { num_predict: ENDLESS },
    });
    const parts = stream[Symbol.asyncIterator]();
    for (const part of await take(parts, 3)) assert.ok(part.message.content);
    assert.ok(await watch.stillUnderWay(), "lines were held back");
    stream.abort();
    await assert.rejects(all(parts), { name: "AbortError" });
    await watch.waitForCancel();
  });

  test("a base path", async (t) => {
    if (stack.needsGateway(t)) return;
    const url = await stack.gatewayWith({ LLAMATOWER_BASE_PATH: "/team/llm" });
    const answer = await at(url).chat({ model: FAST, messages: HI, options: short });
    assert.ok(answer.done);
  });

  test("each line has the alias that was asked for", async (t) => {
    if (stack.needsGateway(t)) return;
    const model = "gpt-4o-mini";
    const aliased = at(await stack.gatewayWith({ LLAMATOWER_ALIASES: `${model}=${FAST}` }));
    const chat = { model, messages: HI, options: short };
    const generate = { model, prompt: "the", options: short };
    for (const answer of [
      await aliased.chat(chat),
      await aliased.generate(generate),
      await aliased.embed({ model, input: "the" }),
      ...(await all(await aliased.chat({ ...chat, stream: true }))),
      ...(await all(await aliased.generate({ ...generate, stream: true }))),
    ]) {
      assert.equal(answer.model, model);
    }
  });

  test("keys, and management for an admin alone", async (t) => {
    if (stack.needsGateway(t)) return;
    const url = await stack.gatewayWith({
      LLAMATOWER_API_KEYS: KEY,
      LLAMATOWER_ADMIN_KEYS: ADMIN_KEY,
    });
    await assert.rejects(at(url).list(), { name: "ResponseError", status_code: 401 });
    assert.ok((await at(url, KEY).list()).models.length);
    const copy = { source: FAST, destination: "copied-by-node" };
    await assert.rejects(at(url, KEY).copy(copy), { name: "ResponseError", status_code: 403 });
    await assert.rejects(client().delete({ model: FAST }), { status_code: 403 });
    const admin = at(url, ADMIN_KEY);
    if (isTranslated) {
      const refusal = { status_code: 501, message: /does not offer \/api\/copy/ };
      await assert.rejects(admin.copy(copy), refusal);
      return;
    }
    assert.equal((await admin.copy(copy)).status, "success");
    assert.equal((await admin.delete({ model: "copied-by-node" })).status, "success");
  });

  // The last one: it takes the stack down.
  test("a backend killed in mid-stream is an error, and the other one takes over", async (t) => {
    if (stack.needsGateway(t)) return;
    await stack.start(kind);
    const stream = await client().chat({
      model: SLOW,
      messages: HI,
      stream: true,
      options: { num_predict: ENDLESS },
    });
    const parts = stream[Symbol.asyncIterator]();
    await take(parts, 3);
    await stack.killHolder(SLOW);
    await assert.rejects(all(parts), (error) => {
      // This one is the client's own word for an end without a last line.
      assert.doesNotMatch(error.message, /Did not receive done/);
      return error instanceof Error;
    });
    const next = await client().generate({ model: SLOW, prompt: "the", options: short });
    assert.ok(next.done);
  });
});
