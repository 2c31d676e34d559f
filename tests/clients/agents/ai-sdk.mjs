// Asks once by the provider named, and prints each part on a line, then DONE, or ERROR and what it says.
import { streamText } from "ai";

const { URL: url, KEY: key } = process.env;
const headers = { Authorization: `Bearer ${key}` };
const providers = {
  "ollama-ai-provider-v2": async () => (await import("ollama-ai-provider-v2")).createOllama({ baseURL: `${url}/api`, headers }),
  "ai-sdk-ollama": async () => (await import("ai-sdk-ollama")).createOllama({ baseURL: url, headers }),
};
const model = (await providers[process.argv[2]]())("tiny");

let broken;
const failed = (error) => {
  broken ??= `ERROR ${error.name} ${error.message}`;
};
try {
  const stream = streamText({ model, prompt: "the llama", onError: ({ error }) => failed(error) });
  for await (const part of stream.fullStream) {
    if (part.type === "text-delta") console.log(`PART ${part.text}`);
    if (part.type === "error") failed(part.error);
  }
} catch (error) {
  failed(error);
}
console.log(broken ?? "DONE");
