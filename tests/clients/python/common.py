"""What all tests of the Python client share: a client, the model, a conversation and a function."""

import os
import time
import unittest

import openai

CLIENT = openai.OpenAI(base_url=os.environ["TRTC_URL"], api_key=os.environ["TRTC_KEY"], max_retries=0, timeout=60)
MODEL = CLIENT.models.list().data[0].id
QUESTION = "What is the weather in Paris?"
MESSAGES = [{"role": "user", "content": QUESTION}]
FUNCTION = {
    "name": "weather",
    "description": "The weather of a city",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
# What this model begins a call with.
TAG = "<tool_call>"
# Models go on for as long as they are let, so that lengths are known.
ENDLESS = {"ignore_eos": True}


class Tests(unittest.TestCase):
    """A test case with the few questions that others ask too."""

    def chat(self, **more):
        asked = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_tokens": 6} | more
        return CLIENT.chat.completions.create(**asked)

    def respond(self, **more):
        asked = {"model": MODEL, "input": QUESTION, "temperature": 0, "max_output_tokens": 6} | more
        return CLIENT.responses.create(**asked)

    def token(self, text):
        """The token that a text is, as biases name it."""
        tokens = post("/tokenize", {"prompt": text, "add_special_tokens": False})["tokens"]
        self.assertEqual(len(tokens), 1)
        return str(tokens[0])

    def is_idle(self):
        """Waits until nothing runs and nothing waits."""
        deadline = time.monotonic() + 30
        while any(level("trtc_num_requests_" + what) for what in ["running", "waiting"]):
            self.assertLess(time.monotonic(), deadline, "requests that nobody waits for go on")
            time.sleep(0.05)


def root():
    """A client of the routes that are not OpenAI's."""
    return CLIENT.with_options(base_url=os.environ["TRTC_URL"].removesuffix("/v1"))


def post(path, body):
    return root().post(path, body=body, cast_to=object)


def level(name):
    """A series of the server's metrics."""
    text = root().get("/metrics", cast_to=str)
    lines = [line for line in text.splitlines() if line.startswith(name + "{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)
