"""Words and requests that the tests of all clients share."""

HI = [{"role": "user", "content": "the llama"}]

ENDLESS = 1500
"""Tokens that take a slow model far longer than any test waits: only a cancel ends them."""

ABSENT = "no-such-model"

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "A city"}},
            "required": ["city"],
        },
    },
}
