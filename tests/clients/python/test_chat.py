"""Models, completions and chats as OpenAI's Python client asks for them."""

import json
from typing import Literal

from pydantic import BaseModel

from common import CLIENT, ENDLESS, FUNCTION, MESSAGES, MODEL, TAG, Tests, root

TOOL = {"type": "function", "function": FUNCTION}


class Answer(BaseModel):
    sure: bool
    mood: Literal["good", "bad"]


class Models(Tests):
    def test_models_are_listed_and_found(self):
        listed = CLIENT.models.list().data
        self.assertEqual([(m.object, m.id) for m in listed], [("model", MODEL)])
        model = CLIENT.models.retrieve(MODEL)
        self.assertEqual(model.id, MODEL)
        self.assertGreater(model.max_model_len, 64)
        self.assertEqual(root().get("/health", cast_to=object), {"status": "ok"})


class Completions(Tests):
    def complete(self, **more):
        asked = {"model": MODEL, "prompt": "One, two, three,", "max_tokens": 5, "temperature": 0} | more
        return CLIENT.completions.create(**asked)

    def test_a_text_is_continued_with_counts_and_log_probabilities(self):
        answer = self.complete(logprobs=2, echo=True, extra_body=ENDLESS)
        choice = answer.choices[0]
        self.assertTrue(choice.text.startswith("One, two, three,"))
        self.assertEqual((choice.finish_reason, answer.usage.completion_tokens), ("length", 5))
        self.assertEqual(len(choice.logprobs.tokens), answer.usage.total_tokens)
        self.assertEqual("".join(choice.logprobs.tokens), choice.text)
        self.assertIsNone(choice.logprobs.token_logprobs[0])
        self.assertTrue(all(p <= 0 for p in choice.logprobs.token_logprobs[1:]))

    def test_several_prompts_and_answers_keep_their_order(self):
        answer = self.complete(prompt=["One, two,", "A, B,"], n=2, max_tokens=2, extra_body=ENDLESS)
        self.assertEqual([c.index for c in answer.choices], [0, 1, 2, 3])
        self.assertEqual(answer.choices[2].text, answer.choices[3].text)
        self.assertEqual(answer.usage.completion_tokens, 8)

    def test_a_stream_adds_up_to_the_whole(self):
        whole = self.complete(extra_body=ENDLESS)
        chunks = list(self.complete(stream=True, stream_options={"include_usage": True}, extra_body=ENDLESS))
        self.assertEqual("".join(c.choices[0].text for c in chunks if c.choices), whole.choices[0].text)
        self.assertEqual(chunks[-2].choices[0].finish_reason, "length")
        self.assertEqual((chunks[-1].choices, chunks[-1].usage.completion_tokens), ([], 5))

    def test_stop_ends_before_its_text(self):
        said = self.complete(max_tokens=8, extra_body=ENDLESS).choices[0].text
        stop = said[len(said) // 2 :]
        answer = self.complete(max_tokens=8, stop=[stop], extra_body=ENDLESS).choices[0]
        self.assertEqual((answer.text, answer.finish_reason), (said[: said.index(stop)], "stop"))

    def test_forms_by_extra_body(self):
        for extra, fits in [
            ({"structured_outputs": {"choice": ["yes", "no"]}}, ["yes", "no"]),
            ({"guided_regex": "[ab]"}, ["a", "b"]),
            ({"guided_choice": ["left"]}, ["left"]),
        ]:
            choice = self.complete(extra_body=extra).choices[0]
            self.assertIn(choice.text, fits)
            self.assertEqual(choice.finish_reason, "stop")


class Chats(Tests):
    def test_a_chat_with_counts_headers_and_log_probabilities(self):
        raw = CLIENT.chat.completions.with_raw_response.create(
            model=MODEL, messages=MESSAGES, max_completion_tokens=4, temperature=0, logprobs=True, top_logprobs=2,
            extra_body=ENDLESS, extra_headers={"X-Request-ID": "python-1"}, user="me", metadata={"a": "b"},
        )
        self.assertEqual(raw.headers["x-request-id"], "python-1")
        self.assertGreater(float(raw.headers["x-trtc-ttft-ms"]), 0)
        answer = raw.parse()
        choice = answer.choices[0]
        self.assertEqual((choice.message.role, choice.finish_reason, answer.object), ("assistant", "length", "chat.completion"))
        self.assertEqual((answer.usage.completion_tokens, answer.model), (4, MODEL))
        self.assertGreaterEqual(answer.usage.prompt_tokens_details.cached_tokens, 0)
        tokens = choice.logprobs.content
        self.assertEqual("".join(t.token for t in tokens), choice.message.content)
        for token in tokens:
            # Without a temperature the most likely token is chosen.
            self.assertEqual((token.token, len(token.top_logprobs)), (token.top_logprobs[0].token, 2))

    def test_a_stream_adds_up_to_the_whole(self):
        whole = self.chat(extra_body=ENDLESS).choices[0].message.content
        with self.chat(stream=True, stream_options={"include_usage": True}, extra_body=ENDLESS) as stream:
            chunks = list(stream)
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in chunks if c.choices), whole)
        self.assertEqual(chunks[-1].usage.completion_tokens, 6)
        self.assertGreater(chunks[-1].usage.timings["ttft_ms"], 0)

    def test_seeds_repeat_and_answers_of_one_request_differ(self):
        def said(seed):
            answer = self.chat(n=2, seed=seed, temperature=1.5, extra_body=ENDLESS, max_tokens=8)
            return [c.message.content for c in answer.choices]

        first = said(1)
        self.assertEqual(first, said(1))
        self.assertNotEqual(first[0], first[1])
        self.assertNotEqual(first, said(2))

    def test_stop_and_biases(self):
        said = self.chat(extra_body=ENDLESS).choices[0].message.content
        word = said.split()[-1]
        answer = self.chat(stop=word, extra_body=ENDLESS).choices[0]
        self.assertEqual((answer.message.content, answer.finish_reason), (said[: said.index(word)], "stop"))
        self.assertEqual(self.chat(logit_bias={self.token(TAG): 100}, max_tokens=1).choices[0].message.content, TAG)

    def test_answers_have_the_form_that_is_asked_for(self):
        parsed = CLIENT.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Answer, max_tokens=60)
        self.assertIsInstance(parsed.choices[0].message.parsed, Answer)
        token = self.token("{}")
        free = self.chat(response_format={"type": "json_object"}, max_tokens=20, logit_bias={token: 50})
        self.assertEqual(json.loads(free.choices[0].message.content), {})
        with CLIENT.chat.completions.stream(
            model=MODEL, messages=MESSAGES, response_format=Answer, max_tokens=60
        ) as stream:
            self.assertIsInstance(stream.get_final_completion().choices[0].message.parsed, Answer)
        choice = self.chat(extra_body={"structured_outputs": {"choice": ["red", "blue"]}})
        self.assertIn(choice.choices[0].message.content, ["red", "blue"])


class Tools(Tests):
    def is_call(self, call):
        self.assertEqual((call.type, call.function.name), ("function", "weather"))
        self.assertIn(json.loads(call.function.arguments)["city"], ["Paris", "Rome"])

    def test_a_call_that_is_wanted_comes_and_its_answer_goes_back(self):
        asked = {"tools": [TOOL], "parallel_tool_calls": False, "max_tokens": 60}
        for choice in ["required", {"type": "function", "function": {"name": "weather"}}]:
            answer = self.chat(tool_choice=choice, **asked).choices[0]
            self.assertEqual((answer.finish_reason, answer.message.content), ("tool_calls", None))
            self.assertEqual(len(answer.message.tool_calls), 1)
            self.is_call(answer.message.tool_calls[0])
        call = answer.message.tool_calls[0]
        back = [*MESSAGES, answer.message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
        self.assertTrue(self.chat(messages=back, tools=[TOOL], tool_choice="none").choices[0].message.content)

    def test_auto_is_a_call_or_text(self):
        # The tag is preferred above all; what follows it is a call, for the function is strict.
        call = self.chat(tools=[TOOL], logit_bias={self.token(TAG): 100}, max_tokens=60, parallel_tool_calls=False)
        self.is_call(call.choices[0].message.tool_calls[0])
        text = self.chat(tools=[TOOL], logit_bias={self.token(TAG): -100}).choices[0].message
        self.assertTrue(text.content)
        self.assertIsNone(text.tool_calls)
        # With a format, too.
        asked = {"model": MODEL, "messages": MESSAGES, "tools": [TOOL], "max_tokens": 60}
        text = CLIENT.chat.completions.parse(response_format=Answer, logit_bias={self.token(TAG): -100}, **asked)
        self.assertIsInstance(text.choices[0].message.parsed, Answer)

    def test_a_streamed_call_adds_up(self):
        with CLIENT.chat.completions.stream(
            model=MODEL, messages=MESSAGES, tools=[TOOL], tool_choice="required", parallel_tool_calls=False,
            temperature=0, max_tokens=60,
        ) as stream:
            events = [event.type for event in stream]
            answer = stream.get_final_completion().choices[0]
        self.assertIn("tool_calls.function.arguments.done", events)
        self.assertEqual(answer.finish_reason, "tool_calls")
        self.is_call(answer.message.tool_calls[0])
        self.assertIn(answer.message.tool_calls[0].function.parsed_arguments["city"], ["Paris", "Rome"])
