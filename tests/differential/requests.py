"""Requests with random mutations, from a seed: of framing, targets, header fields, JSON keys and values, and of bytes."""

import hashlib
import json
import random

POST_PATHS = (
    "/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/v1/chat/completions", "/v1/completions",
    "/v1/embeddings", "/v1/messages", "/v1/responses", "/api/show",
)  # fmt: skip
TARGETS = (
    "{}?a=b", "{}?", "/{}", "{}/", "{}#x", "{};x", "/api/..{}", "http://localhost{}", "http://evil{}", "{}%20", "{}\\",
    "/x{}", "{}?a=%00", "{}//", "/api/%63hat", "/v1/models/tiny", "/v1/models/..%2f..", "/api/tags", "/", "*",
)  # fmt: skip
METHODS = ("GET", "PUT", "DELETE", "HEAD", "post", "OPTIONS", "PATCH", "TRACE", "CONNECT")
FIELDS = (
    "Authorization: Bearer secret", "Cookie: a=b", "X-Forwarded-For: 1.2.3.4", "Forwarded: for=1.2.3.4", "X-Api-Key: secret",
    "Connection: keep-alive, x-a\r\nX-A: named", "TE: trailers", "Upgrade: h2c", 
    "Accept: */*", "Content-Type: application/json", "Content-Type: text/plain", "Expect: 100-continue",
    "Trailer: x-t", "Proxy-Connection: keep-alive", "Keep-Alive: timeout=5", "X-B:no blank", "X-C: \t blanks \t", "X-D:",
    "Origin: http://localhost", "Accept-Encoding: gzip", "Content-Encoding: identity", "X-E: \u00e9", "Host: localhost",
    "Content-Length: 5", "Transfer-Encoding: chunked", "Transfer-Encoding: gzip", "X-F: a\r\n b", "X-G: a\rb", "X-H: a\x00b", "X-I : a",
)  # fmt: skip
MODELS = ("tiny", "tiny:latest", "TINY", "library/tiny", "other", "ti\u00f1y", "", None, 5, ["tiny"], {"a": 1}, "tiny ", "t\ud800", "../x")
KEYS = ("model", "MODEL", "Model", "stream", "Stream", "\u017ftream", "m\u00f6del", "modeI", "mod\u0435l", " model", "model ", "mod\x00el")


def escaped(text: str, chance: random.Random) -> str:
    """A JSON string in which some characters are written as escapes."""
    parts = []
    for char in text:
        if chance.random() < 0.1 and ord(char) < 0x10000:
            parts.append(f"\\u{ord(char):04x}" if chance.random() < 0.5 else f"\\u{ord(char):04X}")
        else:
            parts.append(json.dumps(char, ensure_ascii=chance.random() < 0.5 or 0xD800 <= ord(char) < 0xE000)[1:-1])
    return f'"{"".join(parts)}"'


def blanks(chance: random.Random) -> str:
    return "" if chance.random() < 0.8 else chance.choice([" ", "\n", "\t\r\n  "])


def value(item: object, chance: random.Random) -> str:
    return escaped(item, chance) if isinstance(item, str) else json.dumps(item)


def body(chance: random.Random) -> bytes:
    pairs: list[tuple[str, str]] = [
        ("model", value("tiny", chance)),
        ("messages", '[{"role":"user","content":' + value(chance.choice(["x", '"}{', "\u2028\U0001f600", '","model":"y']), chance) + "}]"),
        ("prompt", value("text \\ \" model", chance)),
        ("input", value("text", chance)),
    ]
    if chance.random() < 0.5:
        pairs.append(("stream", chance.choice(["true", "false", "null"])))
    for _ in range(chance.choice([0, 0, 0, 0, 1, 1, 2])):
        kind = chance.random()
        if kind < 0.35:
            pairs.append((chance.choice(KEYS), value(chance.choice(MODELS), chance)))
        elif kind < 0.5:
            pairs[0] = ("model", value(chance.choice(MODELS), chance))
        elif kind < 0.6:
            pairs.append((chance.choice(KEYS[3:6]), chance.choice(["true", "false", "null", '"true"', "1", "[]"])))
        elif kind < 0.7:
            depth = chance.choice([1, 30, 62, 63, 64, 65, 200])
            pairs.append(("options", '{"a":' * depth + "1" + "}" * depth))
        elif kind < 0.8:
            pairs.append(("options", '{"model":"inner","stream":true,"model":"again"}'))
        else:
            pairs.append(("x", chance.choice(["1e999", "-0", "01", "1.", "NaN", "tru", '"\\x"', '"\\ud800"', '"\t"', "[1,]", "18446744073709551616"])))
    if chance.random() < 0.5:
        chance.shuffle(pairs)
    gap = lambda: blanks(chance)  # noqa: E731
    inner = ",".join(f"{gap()}{escaped(key, chance)}{gap()}:{gap()}{item}{gap()}" for key, item in pairs)
    text = f"{gap()}{{{inner}}}{gap()}"
    extra = chance.random()
    if extra < 0.02:
        text = "\ufeff" + text
    elif extra < 0.05:
        text += chance.choice(["x", "{}", ',{"model":"z"}', "\x00", "]"])
    data = text.encode("utf-8", "surrogatepass")
    return data.replace(b"text", b"\xff", 1) if 0.05 <= extra < 0.06 else data


def in_chunks(data: bytes, chance: random.Random) -> bytes:
    pieces = []
    while data:
        size = min(len(data), chance.choice([1, 7, 50, 1000]))
        extension = chance.choice(["", "", "", ";a", ';a="b"', "; a = b", " "])
        digits = chance.choice(["{:x}", "{:X}", "0{:x}"]).format(size)
        pieces.append(f"{digits}{extension}\r\n".encode() + data[:size] + b"\r\n")
        data = data[size:]
    return b"".join(pieces) + chance.choice([b"0\r\n\r\n"] * 6 + [b"0\r\nX-T: a\r\n\r\n", b"00\r\n\r\n", b"0;x\r\n\r\n"])


def mutate(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4])):
        at = chance.randrange(len(changed) + 1)
        kind = chance.randrange(5)
        if kind == 0:
            changed[at:at] = chance.choice([b"\r\n", b"\n", b"\r", b"\0", b" ", b":", b"\xff", b'"', b",", b"{", b"\t", b"0"])
        elif kind == 1:
            del changed[at : at + chance.choice([1, 1, 2, 10])]
        elif kind == 2 and at < len(changed):
            changed[at] ^= 1 << chance.randrange(8)
        elif kind == 3:
            changed[at:at] = changed[at : at + chance.choice([1, 4, 30])]
        else:
            lines = bytes(changed).split(b"\r\n")
            chance.shuffle(lines)
            changed = bytearray(b"\r\n".join(lines)) if chance.random() < 0.3 else changed
    return bytes(changed)


def one(chance: random.Random) -> bytes:
    """A request: most are valid but for their JSON, the others are mutated in one place or a few.

    What is malformed ends the connection, so more mutations would mean fewer requests that reach a server.
    """
    mutated = chance.random() < 0.25
    path, data = chance.choice(POST_PATHS), body(chance)
    target, method, version = path, "POST", "1.1"
    lines = ["Host: localhost"]
    framed, framing = data, f"Content-Length: {len(data)}"
    if chance.random() < 0.4:
        framed, framing = in_chunks(data, chance), "Transfer-Encoding: chunked"
    lines.append(framing)
    if mutated:
        kind = chance.random()
        if kind < 0.2:
            target = chance.choice(TARGETS).format(path)
        elif kind < 0.3:
            method = chance.choice(METHODS)
        elif kind < 0.6:
            lines += chance.sample(FIELDS, chance.choice([1, 2, 3]))
        elif kind < 0.65:
            version = chance.choice(["1.0", "1.2", "2.0", "1.10", "1.1 "])
        elif kind < 0.75:
            lines[-1] = framing.replace(": ", chance.choice([":", " : ", ": +", ": 0", ":\t", ": \r\n "]))
        elif kind < 0.8:
            lines.pop(chance.randrange(len(lines)))
    will_change = mutated and chance.random() < 0.5
    if not will_change:
        lines.append(f"X-Digest: {hashlib.sha256(data).hexdigest()}")
    chance.shuffle(lines)
    head = f"{method} {target} HTTP/{version}\r\n" + "".join(f"{line}\r\n" for line in lines) + "\r\n"
    whole = head.encode("utf-8") + framed
    return mutate(whole, chance) if will_change else whole
