// What all tests of the Node client share: a client, the model, a conversation and a function.
import assert from "node:assert/strict";
import OpenAI from "openai";

const { TRTC_URL, TRTC_KEY } = process.env;
export const client = new OpenAI({ baseURL: TRTC_URL, apiKey: TRTC_KEY, maxRetries: 0, timeout: 60_000 });
export const model = (await client.models.list()).data[0].id;
export const question = "What is the weather in Paris?";
export const messages = [{ role: "user", content: question }];
export const weather = {
  name: "weather",
  description: "The weather of a city",
  strict: true,
  parameters: {
    type: "object",
    properties: { city: { type: "string", enum: ["Paris", "Rome"] } },
    required: ["city"],
    additionalProperties: false,
  },
};
export const schema = {
  type: "object",
  properties: { sure: { type: "boolean" }, mood: { enum: ["good", "bad"] } },
  required: ["sure", "mood"],
  additionalProperties: false,
};
// What this model begins a call with.
export const tag = "<tool_call>";

/** A client of the routes that are not OpenAI's. */
export const root = client.withOptions({ baseURL: TRTC_URL.replace(/\/v1$/, "") });

export const chat = (more, options) =>
  client.chat.completions.create({ model, messages, temperature: 0, max_tokens: 6, ...more }, options);

export const respond = (more, options) =>
  client.responses.create({ model, input: question, temperature: 0, max_output_tokens: 6, ...more }, options);

/** The token that a text is, as biases name it. */
export async function token(text) {
  const { tokens } = await root.post("/tokenize", { body: { prompt: text, add_special_tokens: false } });
  assert.equal(tokens.length, 1);
  return String(tokens[0]);
}

export function isObject(text) {
  const value = JSON.parse(text);
  assert.deepEqual(Object.keys(value).sort(), ["mood", "sure"]);
  assert.ok(typeof value.sure === "boolean" && ["good", "bad"].includes(value.mood), text);
}

export function isWeather(name, args) {
  assert.equal(name, "weather");
  assert.ok(["Paris", "Rome"].includes(JSON.parse(args).city), args);
}

/** Waits until nothing runs and nothing waits. */
export async function isIdle() {
  const deadline = Date.now() + 30_000;
  for (;;) {
    const text = await (await root.get("/metrics").asResponse()).text();
    const lines = text.split("\n").filter((line) => /^trtc_num_requests_(running|waiting)\{/.test(line));
    assert.ok(lines.length >= 2, text);
    if (lines.every((line) => Number(line.split(" ").at(-1)) === 0)) return;
    assert.ok(Date.now() < deadline, "requests that nobody waits for go on");
    await new Promise((done) => setTimeout(done, 50));
  }
}

/** All that a stream brings. */
export async function all(stream) {
  const chunks = [];
  for await (const chunk of await stream) chunks.push(chunk);
  return chunks;
}
