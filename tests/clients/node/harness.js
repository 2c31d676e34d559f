// The harness of the Python suite, as a child process: it starts simulated and real Ollamas and
// the gateway before them, and says what the backends see. One process for each test file.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { after, before, describe } from "node:test";

// Only the first backend has FAST, both have SLOW: some 15 ms for a token.
export const FAST = "tiny";
export const SLOW = "small";
// No backend has it; the cloud service does.
export const CLOUD_MODEL = "in-the-cloud";
// The kind of stack whose servers are OpenAI-compatible, so that native routes are translated.
export const TRANSLATED = "llama.cpp";
export const ABSENT = "no-such-model";
export const HI = [{ role: "user", content: "the llama" }];
// Tokens that take a slow model far longer than any test waits: only a cancel ends them.
export const ENDLESS = 1500;
export const WEATHER = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather in a city",
    parameters: {
      type: "object",
      properties: { city: { type: "string", description: "A city" } },
      required: ["city"],
    },
  },
};

const KIND_LIMIT_MS = 120_000;

class Harness {
  #child = spawn(process.env.PYTHON ?? "python3", ["-B", "-m", "harness"], {
    cwd: fileURLToPath(new URL("../python", import.meta.url)),
    stdio: ["pipe", "pipe", "inherit"],
  });
  #lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();

  async ask(request) {
    this.#child.stdin.write(`${JSON.stringify(request)}\n`);
    const { value, done } = await this.#lines.next();
    if (done) throw new Error("the harness ended; is python3 there?");
    const answer = JSON.parse(value);
    if (answer.error) throw new Error(`${request.do}: ${answer.error}`);
    return answer;
  }

  async end() {
    this.#child.stdin.end();
    if (this.#child.exitCode === null) await once(this.#child, "exit");
  }
}

export const kinds = await (async () => {
  const harness = new Harness();
  try {
    return (await harness.ask({ do: "kinds" })).kinds;
  } finally {
    await harness.end();
  }
})();

const ofTheGateway = "the clients go to a backend directly, there is no gateway to test";

/** A stack as a test sees it. */
class Stack {
  constructor(harness) {
    this.harness = harness;
  }

  async start(kind) {
    Object.assign(this, await this.harness.ask({ do: "start", kind }));
  }

  /** One more gateway in front of the same backends: its URL. */
  async gatewayWith(settings) {
    return (await this.harness.ask({ do: "gateway", ...settings })).url;
  }

  /** One more gateway, which sends what no backend has to a cloud service: its URL. */
  async cloudGateway() {
    return (await this.harness.ask({ do: "cloud_gateway" })).url;
  }

  /** Skips the test when there is no gateway; true then. */
  needsGateway(t) {
    if (!this.gateway) t.skip(ofTheGateway);
    return !this.gateway;
  }

  /** Watches the requests for a path; a test is skipped where the server shows nothing of them. */
  async watch(t, path) {
    const answer = await this.harness.ask({ do: "watch", path });
    if (answer.missing) {
      t.skip(answer.missing);
      return undefined;
    }
    const { watch } = answer;
    return {
      stillUnderWay: async () =>
        (await this.harness.ask({ do: "under_way", watch })).under_way,
      waitForCancel: () => this.harness.ask({ do: "wait_for_cancel", watch }),
    };
  }

  killHolder(model) {
    return this.harness.ask({ do: "kill_holder", model });
  }
}

/** Runs a suite on every kind of stack that this run can have. */
export function onEachStack(client, define) {
  for (const kind of kinds) {
    describe(`${client}, ${kind}`, () => {
      const stack = new Stack(new Harness());
      before(() => stack.start(kind), { timeout: KIND_LIMIT_MS });
      after(() => stack.harness.end());
      define(stack, kind);
    });
  }
}

/** The first so many items of a stream, which stays open. */
export async function take(iterator, count) {
  const items = [];
  while (items.length < count) {
    const { value, done } = await iterator.next();
    if (done) throw new Error(`the stream ended after ${items.length} items`);
    items.push(value);
  }
  return items;
}

/** All items of a stream. */
export async function all(stream) {
  const items = [];
  for await (const item of stream) items.push(item);
  return items;
}
