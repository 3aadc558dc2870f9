// A receiver of PayFlow's webhooks: it verifies, remembers, answers, and only then works.
// Node 18 or newer and nothing else:
//
//     WEBHOOK_SECRET=whsec_... PORT=9000 INBOX=webhooks.jsonl node receiver.mjs

import { createHmac, timingSafeEqual } from "node:crypto";
import { closeSync, existsSync, fsyncSync, openSync, readFileSync, writeSync } from "node:fs";
import { createServer } from "node:http";

const BODY_BYTES_MAX = 1_000_000;
const TOLERANCE_SECONDS = 300;
const INBOX = process.env.INBOX ?? "webhooks.jsonl";
const key = Buffer.from(process.env.WEBHOOK_SECRET.replace(/^whsec_/, ""), "base64");

// Standard Webhooks: HMAC-SHA256 over `id.timestamp.body`, the bytes of the body as they came.
function isGenuine(headers, body) {
  const { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signatures } = headers;
  if (!id || !/^[0-9]{1,12}$/.test(timestamp ?? "") || !signatures) return false;
  if (Math.abs(Date.now() / 1000 - Number(timestamp)) > TOLERANCE_SECONDS) return false;
  const expected = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body).digest();
  // While a secret is being replaced there are two signatures: one that fits is enough.
  return signatures.split(" ").some((signature) => {
    const given = Buffer.from(signature.replace(/^v1,/, ""), "base64");
    return signature.startsWith("v1,") && given.length === expected.length && timingSafeEqual(given, expected);
  });
}

// The inbox is a file with one event on each line; what is in it has been answered. A line that a crash cut
// short was not answered, so that event comes again.
const seen = new Set();
const waiting = [];
for (const line of existsSync(INBOX) ? readFileSync(INBOX, "utf8").split("\n") : []) {
  try {
    take(JSON.parse(line));
  } catch {
    // Cut short, or empty.
  }
}
const inbox = openSync(INBOX, "a");
writeSync(inbox, "\n");

function take(event) {
  seen.add(event.id);
  waiting.push(event);
}

// Keeps each transaction's newest state. An event that comes late shows a shorter history: it is passed over.
const steps = new Map();
function work() {
  for (const { data } of waiting.splice(0)) {
    if (!data.history || data.history.length <= (steps.get(data.id) ?? 0)) continue;
    steps.set(data.id, data.history.length);
    console.log(data.id, data.status);
  }
}

const server = createServer((request, response) => {
  const chunks = [];
  let size = 0;
  request.on("data", (chunk) => {
    size += chunk.length;
    if (size > BODY_BYTES_MAX) request.destroy();
    else chunks.push(chunk);
  });
  request.on("end", () => {
    const body = Buffer.concat(chunks);
    if (request.method !== "POST" || !isGenuine(request.headers, body)) return response.writeHead(400).end();
    const event = JSON.parse(body);
    // A repeat has the same id: it is answered alike, and kept once.
    if (!seen.has(event.id)) {
      writeSync(inbox, JSON.stringify(event) + "\n");
      fsyncSync(inbox); // on disk before the answer
      take(event);
    }
    response.writeHead(204).end();
    setImmediate(work);
  });
});

server.listen(Number(process.env.PORT ?? 9000), "127.0.0.1", work);
process.on("SIGTERM", () => server.close(() => closeSync(inbox)));
