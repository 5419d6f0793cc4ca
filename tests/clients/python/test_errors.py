"""Which exception of OpenAI's Python client each error of the server becomes, and what is left of requests that are given up."""

import time
import unittest

import openai

from common import CLIENT, ENDLESS, MESSAGES, MODEL, Tests


class Errors(Tests):
    def refused(self, kind, status, code, param, ask):
        with self.assertRaises(kind) as raised:
            ask()
        error = raised.exception
        self.assertEqual((error.status_code, error.code, error.param), (status, code, param), error)
        self.assertTrue(error.message and error.request_id)
        return error

    def test_wrong_parameters(self):
        bad = openai.BadRequestError
        self.refused(bad, 400, "unsupported_parameter", "colour", lambda: self.chat(extra_body={"colour": 1}))
        self.refused(bad, 400, "unsupported_parameter", "best_of", lambda: self.chat(extra_body={"best_of": 3}))
        self.refused(bad, 400, "context_length_exceeded", "max_tokens", lambda: self.chat(max_tokens=100000))
        self.refused(bad, 400, None, "messages", lambda: self.chat(messages=[]))
        self.refused(bad, 400, None, "tool_choice", lambda: self.chat(tool_choice="required"))
        schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array", "uniqueItems": True}}}
        self.refused(bad, 400, None, "response_format", lambda: self.chat(response_format=schema))
        embed = lambda: CLIENT.embeddings.create(model=MODEL, input="a")
        self.refused(bad, 400, "unsupported_endpoint", None, embed)

    def test_keys(self):
        stranger = CLIENT.with_options(api_key="wrong")
        self.refused(openai.AuthenticationError, 401, "invalid_api_key", None, stranger.models.list)
        # Loading is for admins.
        load = lambda: CLIENT.post("/models/load", body={"model": "a", "engine": "b"}, cast_to=object)
        self.refused(openai.PermissionDeniedError, 403, "forbidden", None, load)

    def test_models_and_routes_that_are_not_there(self):
        missing = openai.NotFoundError
        self.refused(missing, 404, "model_not_found", "model", lambda: self.chat(model="another"))
        self.refused(missing, 404, "model_not_found", "model", lambda: CLIENT.models.retrieve("another"))
        self.refused(missing, 404, "unknown_url", None, lambda: CLIENT.batches.retrieve("b"))

    def test_a_body_that_is_too_long(self):
        long = [{"role": "user", "content": "a" * 300_000}]
        self.refused(openai.APIStatusError, 413, "request_too_large", None, lambda: self.chat(messages=long))

    def test_a_full_queue(self):
        streams = []

        def fill():
            for _ in range(64):
                streams.append(self.chat(stream=True, max_tokens=400, extra_body=ENDLESS))

        try:
            error = self.refused(openai.RateLimitError, 429, "rate_limit_exceeded", None, fill)
            self.assertGreaterEqual(int(error.response.headers["retry-after"]), 1)
        finally:
            for stream in streams:
                stream.close()
        self.is_idle()

    def test_time_limits(self):
        asked = {"max_tokens": 400, "extra_body": ENDLESS | {"timeout": 0.3}}
        error = self.refused(openai.InternalServerError, 504, "timeout", None, lambda: self.chat(**asked))
        self.assertEqual(error.type, "timeout_error")
        # In a stream that has begun it is the last event.
        with self.assertRaises(openai.APIError) as raised:
            list(self.chat(stream=True, **asked))
        self.assertEqual(raised.exception.code, "timeout")
        # The client's own limit: it leaves, and nothing more is computed for it.
        begin = time.monotonic()
        with self.assertRaises(openai.APITimeoutError):
            self.chat(timeout=0.3, max_tokens=400, extra_body=ENDLESS)
        self.is_idle()
        self.assertLess(time.monotonic() - begin, 20)

    def test_who_leaves_a_stream_ends_the_request(self):
        for ask in [self.chat, lambda **more: CLIENT.responses.create(model=MODEL, input=MESSAGES, **more)]:
            length = {"max_tokens": 400} if ask == self.chat else {"max_output_tokens": 400}
            stream = ask(stream=True, extra_body=ENDLESS, **length)
            next(iter(stream))
            stream.close()
            self.is_idle()


if __name__ == "__main__":
    unittest.main()
