// Models, completions and chats as OpenAI's Node client asks for them.
import assert from "node:assert/strict";
import { test } from "node:test";
import { all, chat, client, isObject, isWeather, messages, model, root, schema, tag, token, weather } from "./common.js";

const tool = { type: "function", function: weather };
const complete = (more) =>
  client.completions.create({ model, prompt: "One, two, three,", max_tokens: 5, temperature: 0, ...more });

test("models are listed and found", async () => {
  assert.deepEqual((await client.models.list()).data.map((m) => [m.object, m.id]), [["model", model]]);
  assert.ok((await client.models.retrieve(model)).max_model_len > 64);
  assert.deepEqual(await root.get("/health"), { status: "ok" });
});

test("a text is continued, whole and streamed, with counts and log-probabilities", async () => {
  const whole = await complete({ logprobs: 2, ignore_eos: true });
  const [choice] = whole.choices;
  assert.deepEqual([choice.finish_reason, whole.usage.completion_tokens], ["length", 5]);
  assert.equal(choice.logprobs.tokens.join(""), choice.text);
  const chunks = await all(complete({ stream: true, stream_options: { include_usage: true }, ignore_eos: true }));
  assert.equal(chunks.flatMap((c) => c.choices.map((x) => x.text)).join(""), choice.text);
  assert.equal(chunks.at(-1).usage.completion_tokens, 5);
  const two = await complete({ prompt: ["One,", "A,"], n: 2, max_tokens: 2, ignore_eos: true });
  assert.deepEqual(two.choices.map((c) => c.index), [0, 1, 2, 3]);
  const stop = choice.text.slice(choice.text.length >> 1);
  const cut = (await complete({ stop, ignore_eos: true })).choices[0];
  assert.deepEqual([cut.text, cut.finish_reason], [choice.text.slice(0, choice.text.indexOf(stop)), "stop"]);
});

test("completions have a form by trtc's own parameters", async () => {
  assert.match((await complete({ guided_regex: "[ab]" })).choices[0].text, /^[ab]$/);
  assert.equal((await complete({ structured_outputs: { choice: ["left"] } })).choices[0].text, "left");
});

test("a chat, whole and streamed, with counts, headers and log-probabilities", async () => {
  const asked = { logprobs: true, top_logprobs: 2, ignore_eos: true, user: "me", metadata: { a: "b" } };
  const { data, response } = await chat(asked, { headers: { "X-Request-ID": "node-1" } }).withResponse();
  assert.equal(response.headers.get("x-request-id"), "node-1");
  assert.ok(Number(response.headers.get("x-trtc-ttft-ms")) > 0);
  const [choice] = data.choices;
  assert.deepEqual([choice.message.role, choice.finish_reason, data.usage.completion_tokens], ["assistant", "length", 6]);
  const tokens = choice.logprobs.content;
  assert.equal(tokens.map((t) => t.token).join(""), choice.message.content);
  // Without a temperature the most likely token is chosen.
  for (const t of tokens) assert.deepEqual([t.token, t.top_logprobs.length], [t.top_logprobs[0].token, 2]);
  const chunks = await all(chat({ stream: true, stream_options: { include_usage: true }, ignore_eos: true }));
  assert.equal(chunks[0].choices[0].delta.role, "assistant");
  assert.equal(chunks.map((c) => c.choices[0]?.delta.content ?? "").join(""), choice.message.content);
  assert.equal(chunks.at(-1).usage.completion_tokens, 6);
  assert.ok(chunks.at(-1).usage.timings.ttft_ms > 0);
});

test("seeds repeat, answers of one request differ, and stop ends", async () => {
  const said = async (seed) =>
    (await chat({ n: 2, seed, temperature: 1.5, ignore_eos: true, max_tokens: 8 })).choices.map((c) => c.message.content);
  const first = await said(1);
  assert.deepEqual(first, await said(1));
  assert.notEqual(first[0], first[1]);
  assert.notDeepEqual(first, await said(2));
  const text = (await chat({ ignore_eos: true })).choices[0].message.content;
  const stop = text.trim().split(/\s+/).at(-1);
  const cut = (await chat({ stop: [stop], ignore_eos: true })).choices[0];
  assert.deepEqual([cut.message.content, cut.finish_reason], [text.slice(0, text.indexOf(stop)), "stop"]);
});

test("answers have the form that is asked for", async () => {
  const response_format = { type: "json_schema", json_schema: { name: "answer", strict: true, schema } };
  const parsed = await client.chat.completions.parse({ model, messages, response_format, max_tokens: 60 });
  isObject(JSON.stringify(parsed.choices[0].message.parsed));
  const bias = { logit_bias: { [await token("{}")]: 50 } };
  const free = await chat({ response_format: { type: "json_object" }, max_tokens: 20, ...bias });
  assert.deepEqual(JSON.parse(free.choices[0].message.content), {});
  const stream = client.chat.completions.stream({ model, messages, response_format, max_tokens: 60 });
  isObject((await stream.finalChatCompletion()).choices[0].message.content);
});

test("a call that is wanted comes, and what it gave goes back", async () => {
  const asked = { tools: [tool], parallel_tool_calls: false, max_tokens: 60 };
  let message;
  for (const tool_choice of ["required", { type: "function", function: { name: "weather" } }]) {
    const [choice] = (await chat({ tool_choice, ...asked })).choices;
    message = choice.message;
    assert.deepEqual([choice.finish_reason, message.content, message.tool_calls.length], ["tool_calls", null, 1]);
    isWeather(message.tool_calls[0].function.name, message.tool_calls[0].function.arguments);
  }
  const result = { role: "tool", tool_call_id: message.tool_calls[0].id, content: "rain" };
  const next = await chat({ messages: [...messages, message, result], tools: [tool], tool_choice: "none" });
  assert.ok(next.choices[0].message.content);
});

test("where the model is free, an answer is a call or text, of the format if there is one", async () => {
  const id = await token(tag);
  // The tag is preferred above all; what follows it is a call, for the function is strict.
  const asked = { tools: [tool], parallel_tool_calls: false, max_tokens: 60 };
  const [call] = (await chat({ logit_bias: { [id]: 100 }, ...asked })).choices[0].message.tool_calls;
  isWeather(call.function.name, call.function.arguments);
  const response_format = { type: "json_schema", json_schema: { name: "answer", schema } };
  const text = (await chat({ logit_bias: { [id]: -100 }, response_format, ...asked })).choices[0].message;
  isObject(text.content);
  assert.equal(text.tool_calls, undefined);
});

test("a streamed call adds up", async () => {
  const asked = { model, messages, tools: [tool], tool_choice: "required", parallel_tool_calls: false, max_tokens: 60 };
  const stream = client.chat.completions.stream({ ...asked, temperature: 0 });
  const [choice] = (await stream.finalChatCompletion()).choices;
  assert.equal(choice.finish_reason, "tool_calls");
  isWeather(choice.message.tool_calls[0].function.name, choice.message.tool_calls[0].function.arguments);
});
