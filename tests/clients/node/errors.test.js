// Which class of OpenAI's Node client each error of the server becomes, and what is left of requests that are given up.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { all, chat, client, isIdle, model, respond } from "./common.js";

const long = { max_tokens: 400, ignore_eos: true };

async function refused(kind, status, code, param, asked) {
  let found;
  await assert.rejects(asked, (error) => {
    found = error;
    return true;
  });
  assert.ok(found instanceof kind, String(found));
  assert.deepEqual([found.status, found.code, found.param], [status, code, param], String(found));
  assert.ok(found.requestID && found.message);
  return found;
}

test("wrong parameters", async () => {
  const bad = OpenAI.BadRequestError;
  await refused(bad, 400, "unsupported_parameter", "colour", chat({ colour: 1 }));
  await refused(bad, 400, "context_length_exceeded", "max_tokens", chat({ max_tokens: 100000 }));
  await refused(bad, 400, null, "messages", chat({ messages: [] }));
  await refused(bad, 400, null, "tool_choice", chat({ tool_choice: "required" }));
  await refused(bad, 400, "unsupported_endpoint", null, client.embeddings.create({ model, input: "a" }));
});

test("keys", async () => {
  const stranger = client.withOptions({ apiKey: "wrong" });
  await refused(OpenAI.AuthenticationError, 401, "invalid_api_key", null, stranger.models.list());
  const load = client.post("/models/load", { body: { model: "a", engine: "b" } });
  await refused(OpenAI.PermissionDeniedError, 403, "forbidden", null, load);
});

test("models and routes that are not there", async () => {
  const missing = OpenAI.NotFoundError;
  await refused(missing, 404, "model_not_found", "model", chat({ model: "another" }));
  await refused(missing, 404, "model_not_found", "model", client.models.retrieve("another"));
  await refused(missing, 404, "unknown_url", null, client.batches.retrieve("b"));
});

test("a body that is too long", async () => {
  const messages = [{ role: "user", content: "a".repeat(300_000) }];
  await refused(OpenAI.APIError, 413, "request_too_large", null, chat({ messages }));
});

test("a full queue", async () => {
  const streams = [];
  const fill = async () => {
    for (let i = 0; i < 64; i++) streams.push(await chat({ stream: true, ...long }));
  };
  try {
    const error = await refused(OpenAI.RateLimitError, 429, "rate_limit_exceeded", null, fill());
    assert.ok(Number(error.headers.get("retry-after")) >= 1);
  } finally {
    for (const stream of streams) stream.controller.abort();
  }
  await isIdle();
});

test("time limits, the server's and the client's", async () => {
  const error = await refused(OpenAI.InternalServerError, 504, "timeout", null, chat({ timeout: 0.3, ...long }));
  assert.equal(error.type, "timeout_error");
  // In a stream that has begun it is the last event.
  await assert.rejects(all(chat({ stream: true, timeout: 0.3, ...long })), (e) => e.code === "timeout");
  await assert.rejects(chat(long, { timeout: 300 }), OpenAI.APIConnectionTimeoutError);
  await isIdle();
});

test("who leaves ends the request", async () => {
  const asks = [
    () => chat({ stream: true, ...long }),
    () => respond({ stream: true, max_output_tokens: 400, ignore_eos: true }),
  ];
  for (const ask of asks) {
    for await (const _ of await ask()) break;
    await isIdle();
  }
  const control = new AbortController();
  const asked = chat(long, { signal: control.signal });
  setTimeout(() => control.abort(), 200);
  await assert.rejects(asked, OpenAI.APIUserAbortError);
  await isIdle();
});
