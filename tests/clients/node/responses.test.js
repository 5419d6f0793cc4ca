// Responses as OpenAI's Node client asks for them.
import assert from "node:assert/strict";
import { test } from "node:test";
import OpenAI from "openai";
import { all, chat, client, isObject, isWeather, messages, model, question, respond, schema, tag, token, weather } from "./common.js";

const tool = { type: "function", ...weather };
const user = (content) => ({ role: "user", content });

test("a text is answered as a chat would be", async () => {
  const answer = await respond({
    instructions: "Be brief.", metadata: { a: "b" }, store: false, ignore_eos: true,
    include: ["message.output_text.logprobs"], top_logprobs: 2,
  });
  const whole = await chat({ messages: [{ role: "system", content: "Be brief." }, ...messages], ignore_eos: true });
  assert.equal(answer.output_text, whole.choices[0].message.content);
  assert.deepEqual([answer.object, answer.model, answer.instructions], ["response", model, "Be brief."]);
  assert.deepEqual([answer.metadata, answer.error, answer.status], [{ a: "b" }, null, "incomplete"]);
  assert.equal(answer.incomplete_details.reason, "max_output_tokens");
  assert.deepEqual([answer.usage.output_tokens, answer.usage.total_tokens], [6, whole.usage.total_tokens]);
  const tokens = answer.output[0].content[0].logprobs;
  assert.equal(tokens.map((t) => t.token).join(""), answer.output_text);
});

test("a conversation goes on with the items of its answers", async () => {
  const first = await respond({ structured_outputs: { choice: ["rain"] } });
  assert.deepEqual([first.status, first.output_text], ["completed", "rain"]);
  const second = await respond({ input: [user(question), ...first.output, user("And in Rome?")] });
  const words = [user(question), { role: "assistant", content: "rain" }, user("And in Rome?")];
  assert.equal(second.usage.input_tokens, (await chat({ messages: words, max_tokens: 1 })).usage.prompt_tokens);
});

test("typed events add up to the whole", async () => {
  const whole = await respond({ ignore_eos: true });
  const events = await all(respond({ stream: true, ignore_eos: true }));
  assert.deepEqual(events.map((e) => e.sequence_number), events.map((_, i) => i));
  const kinds = events.map((e) => e.type.replace(/^response\./, ""));
  assert.deepEqual(kinds.slice(0, 4), ["created", "in_progress", "output_item.added", "content_part.added"]);
  assert.deepEqual(kinds.slice(-4), ["output_text.done", "content_part.done", "output_item.done", "incomplete"]);
  assert.equal(events.map((e) => e.delta ?? "").join(""), whole.output_text);
  assert.equal(events.at(-1).response.usage.output_tokens, 6);
});

test("answers have the form that is asked for, also by the streaming helper", async () => {
  const text = { format: { type: "json_schema", name: "answer", strict: true, schema } };
  const parsed = await client.responses.parse({ model, input: question, text, max_output_tokens: 60 });
  isObject(JSON.stringify(parsed.output_parsed));
  const stream = client.responses.stream({ model, input: question, text, max_output_tokens: 60, temperature: 0 });
  let said = "";
  stream.on("response.output_text.delta", (event) => (said = event.snapshot));
  const final = await stream.finalResponse();
  assert.equal(said, final.output_text);
  isObject(final.output_text);
  const bias = { logit_bias: { [await token("{}")]: 50 } };
  const free = await respond({ text: { format: { type: "json_object" } }, max_output_tokens: 20, ...bias });
  assert.deepEqual(JSON.parse(free.output_text), {});
});

test("calls come, whole and streamed, and what they gave goes back", async () => {
  const asked = { tools: [tool], parallel_tool_calls: false, max_output_tokens: 60 };
  let call;
  for (const tool_choice of ["required", { type: "function", name: "weather" }]) {
    const answer = await respond({ tool_choice, ...asked });
    [call] = answer.output;
    assert.deepEqual([answer.output.length, answer.status, call.type], [1, "completed", "function_call"]);
    isWeather(call.name, call.arguments);
  }
  const result = { type: "function_call_output", call_id: call.call_id, output: "rain" };
  const next = await respond({ input: [user(question), call, result], tools: [tool], tool_choice: "none" });
  assert.ok(next.output_text);
  const auto = await respond({ logit_bias: { [await token(tag)]: 100 }, ...asked });
  isWeather(auto.output[0].name, auto.output[0].arguments);
  const stream = client.responses.stream({ model, input: question, tool_choice: "required", temperature: 0, ...asked });
  let told = "";
  stream.on("response.function_call_arguments.delta", (event) => (told = event.snapshot));
  const [streamed] = (await stream.finalResponse()).output;
  isWeather(streamed.name, streamed.arguments);
  assert.equal(told, streamed.arguments);
});

test("what needs a memory is refused, and an error within a stream is told", async () => {
  for (const [name, value] of [["previous_response_id", "resp_1"], ["store", true], ["background", true]]) {
    await assert.rejects(respond({ [name]: value }), (error) => {
      assert.ok(error instanceof OpenAI.BadRequestError);
      return error.param === name && error.code === "unsupported_parameter";
    });
  }
  await assert.rejects(client.responses.retrieve("resp_1"), OpenAI.NotFoundError);
  const late = await respond({ stream: true, max_output_tokens: 400, ignore_eos: true, timeout: 0.5 });
  let told;
  try {
    for await (const event of late) if (event.type === "error") told = event;
  } catch (error) {
    // Versions for newer Nodes raise it.
    told = error;
  }
  assert.equal(told.code, "timeout");
});
