// A server of Node's http module that tells, for each request, how Node understands it. See server.go.
import { createHash } from "node:crypto";
import { createServer } from "node:http";

const model = {
  name: "tiny:latest", model: "tiny:latest", modified_at: "2025-01-01T00:00:00Z", size: 1,
  digest: "0".repeat(64), details: { family: "llama" },
};
const probes = {
  "/api/version": { version: "0.33.0" },
  "/api/tags": { models: [model] },
  "/api/ps": { models: [] },
};
const tell = (seen) => process.stdout.write(JSON.stringify({ server: "node", ...seen }) + "\n");

const server = createServer((request, response) => {
  response.setHeader("Content-Type", "application/json");
  if (request.method === "GET" && probes[request.url] && !request.headers["x-request-id"]) {
    response.end(JSON.stringify(probes[request.url]));
    return;
  }
  const pieces = [];
  request.on("data", (piece) => pieces.push(piece));
  request.on("end", () => {
    const data = Buffer.concat(pieces);
    const seen = { model: "", stream: null, prompts: false, error: "" };
    try {
      const value = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(data));
      seen.model = value.model ?? "";
      seen.stream = value.stream ?? null;
      seen.prompts = Boolean(request.url === "/api/chat" ? value.messages?.length : value.prompt);
    } catch (error) {
      seen.error = String(error);
    }
    const all = (name) => request.rawHeaders.filter((_, at) => at % 2 && request.rawHeaders[at - 1].toLowerCase() === name);
    tell({
      id: all("x-request-id"), method: request.method, target: request.url, ...seen,
      fields: request.rawHeaders.filter((_, at) => at % 2 === 0).map((name) => name.toLowerCase()),
      length: Number(request.headers["content-length"] ?? -1),
      codings: all("transfer-encoding"),
      digest: createHash("sha256").update(data).digest("hex"),
      told: all("x-digest"),
    });
    response.end('{"model":"tiny","done":true,"embeddings":[[0.5]],"data":[],"choices":[],"usage":{}}\n');
  });
});
server.on("clientError", (error, socket) => {
  if (error.code !== "ECONNRESET") tell({ id: [], error: `refused: ${error.code} ${error.message}` });
  socket.destroy();
});
server.keepAliveTimeout = 120_000;
const [host, port] = process.argv[2].split(":");
server.listen(Number(port), host);
