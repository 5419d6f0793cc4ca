"""Responses as OpenAI's Python client asks for them."""

import json
from typing import Literal

import openai
from pydantic import BaseModel

from common import CLIENT, ENDLESS, FUNCTION, MESSAGES, MODEL, QUESTION, TAG, Tests

TOOL = {"type": "function"} | FUNCTION


class Answer(BaseModel):
    sure: bool
    mood: Literal["good", "bad"]


class Responses(Tests):
    def test_a_text_is_answered_as_a_chat_would_be(self):
        logprobs = ["message.output_text.logprobs"]
        answer = self.respond(
            instructions="Be brief.", metadata={"a": "b"}, user="me", store=False, include=logprobs, top_logprobs=2,
            extra_body=ENDLESS,
        )
        chat = self.chat(messages=[{"role": "system", "content": "Be brief."}, *MESSAGES], extra_body=ENDLESS)
        self.assertEqual(answer.output_text, chat.choices[0].message.content)
        self.assertEqual((answer.object, answer.model, answer.instructions), ("response", MODEL, "Be brief."))
        self.assertEqual((answer.metadata, answer.user, answer.error), ({"a": "b"}, "me", None))
        self.assertEqual((answer.status, answer.incomplete_details.reason), ("incomplete", "max_output_tokens"))
        self.assertEqual((answer.usage.output_tokens, answer.usage.total_tokens), (6, chat.usage.total_tokens))
        tokens = answer.output[0].content[0].logprobs
        self.assertEqual("".join(t.token for t in tokens), answer.output_text)
        self.assertEqual({len(t.top_logprobs) for t in tokens}, {2})

    def test_a_conversation_goes_on_with_the_items_of_its_answers(self):
        first = self.respond(extra_body={"structured_outputs": {"choice": ["rain"]}})
        self.assertEqual((first.status, first.output_text), ("completed", "rain"))
        items = [{"role": "user", "content": QUESTION}, *first.output, {"role": "user", "content": "And in Rome?"}]
        second = self.respond(input=items)
        words = [*MESSAGES, {"role": "assistant", "content": "rain"}, {"role": "user", "content": "And in Rome?"}]
        self.assertEqual(second.usage.input_tokens, self.chat(messages=words, max_tokens=1).usage.prompt_tokens)

    def test_typed_events_add_up_to_the_whole(self):
        whole = self.respond(extra_body=ENDLESS)
        events = list(self.respond(stream=True, extra_body=ENDLESS))
        self.assertEqual([e.sequence_number for e in events], list(range(len(events))))
        kinds = [e.type.removeprefix("response.") for e in events]
        self.assertEqual(kinds[:4], ["created", "in_progress", "output_item.added", "content_part.added"])
        self.assertEqual(kinds[-4:], ["output_text.done", "content_part.done", "output_item.done", "incomplete"])
        self.assertEqual(set(kinds[4:-4]), {"output_text.delta"})
        self.assertEqual("".join(e.delta for e in events[4:-4]), whole.output_text)
        self.assertEqual(events[-1].response.output_text, whole.output_text)
        self.assertEqual(events[-1].response.usage.output_tokens, 6)

    def test_the_streaming_helper_gathers_a_response(self):
        with CLIENT.responses.stream(
            model=MODEL, input=QUESTION, text_format=Answer, temperature=0, max_output_tokens=60
        ) as stream:
            snapshots = [e.snapshot for e in stream if e.type == "response.output_text.delta"]
            final = stream.get_final_response()
        self.assertEqual(snapshots[-1], final.output_text)
        self.assertIsInstance(final.output_parsed, Answer)

    def test_answers_have_the_form_that_is_asked_for(self):
        parsed = CLIENT.responses.parse(model=MODEL, input=QUESTION, text_format=Answer, max_output_tokens=60)
        self.assertIsInstance(parsed.output_parsed, Answer)
        bias = {"logit_bias": {self.token("{}"): 50}}
        free = self.respond(text={"format": {"type": "json_object"}}, max_output_tokens=20, extra_body=bias)
        self.assertEqual(json.loads(free.output_text), {})

    def is_call(self, item):
        self.assertEqual((item.type, item.name, item.status), ("function_call", "weather", "completed"))
        self.assertIn(json.loads(item.arguments)["city"], ["Paris", "Rome"])

    def test_calls_come_and_what_they_gave_goes_back(self):
        asked = {"tools": [TOOL], "parallel_tool_calls": False, "max_output_tokens": 60}
        for choice in ["required", {"type": "function", "name": "weather"}]:
            answer = self.respond(tool_choice=choice, **asked)
            self.assertEqual((len(answer.output), answer.status, answer.output_text), (1, "completed", ""))
            self.is_call(answer.output[0])
        call = answer.output[0]
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "rain"}
        items = [{"role": "user", "content": QUESTION}, call, result]
        self.assertTrue(self.respond(input=items, tools=[TOOL], tool_choice="none").output_text)
        # The model is free, and prefers a call above all.
        auto = self.respond(extra_body={"logit_bias": {self.token(TAG): 100}}, **asked)
        self.is_call(auto.output[0])

    def test_a_streamed_call_adds_up(self):
        with CLIENT.responses.stream(
            model=MODEL, input=QUESTION, tools=[TOOL], tool_choice="required", parallel_tool_calls=False,
            temperature=0, max_output_tokens=60,
        ) as stream:
            kinds = [event.type.removeprefix("response.") for event in stream]
            final = stream.get_final_response()
        self.assertIn("function_call_arguments.delta", kinds)
        self.assertIn("function_call_arguments.done", kinds)
        self.is_call(final.output[0])
        self.assertIn(final.output[0].parsed_arguments["city"], ["Paris", "Rome"])

    def test_what_needs_a_memory_is_refused(self):
        for name, value in [("previous_response_id", "resp_1"), ("store", True), ("background", True), ("conversation", "c")]:
            with self.assertRaises(openai.BadRequestError) as raised:
                self.respond(**{name: value})
            self.assertEqual((raised.exception.param, raised.exception.code), (name, "unsupported_parameter"))
        with self.assertRaises(openai.NotFoundError):
            CLIENT.responses.retrieve("resp_1")

    def test_an_error_within_a_stream_is_an_event(self):
        late = self.respond(stream=True, max_output_tokens=400, extra_body=ENDLESS | {"timeout": 0.5})
        *_, error, last = late
        self.assertEqual((error.type, error.code), ("error", "timeout"))
        self.assertEqual((last.type, last.response.status), ("response.failed", "failed"))
