"""Targets and header fields that try to pass a rule by."""

from .bench import CHAT, HEAD_LIMIT, KEY, OTHER_KEY, Bench, Case
from parts.wire import request

LONGEST_TARGET = 8 * 1024
REDIRECT = (307, 404)
"""As Ollama does, but only to known paths: a client that follows meets the rules of that path."""
DELETE = b'{"model":"tiny"}'


def on(target: str, status: tuple[int, ...], method: str = "POST", body: bytes = CHAT, name: str | None = None) -> Case:
    return Case(f"{method} {name or target}", request(method, target, body), status, method=method)


def targets() -> list[Case]:
    no_host = b"POST /api/chat HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
    two_hosts = b"POST /api/chat HTTP/1.1\r\nHost: localhost\r\nHost: other\r\nContent-Length: 2\r\n\r\n{}"
    return [
        on("//api//delete", REDIRECT, "DELETE", DELETE),
        on("/api//delete", REDIRECT, "DELETE", DELETE),
        on("//api/chat", REDIRECT),
        on("/api/%64elete", (404,), "DELETE", DELETE),
        on("/api/dele%74e", (404,), "DELETE", DELETE),
        on("/api/chat/../delete", REDIRECT, "DELETE", DELETE),
        on("/api/chat/..", (404,)),
        on("/api/./chat", REDIRECT),
        on("/api/%2e%2e/api/delete", (404,), "DELETE", DELETE),
        on("/api%2fdelete", (404,), "DELETE", DELETE),
        on("/api%5cdelete", (404,), "DELETE", DELETE),
        on("/api\\delete", (400, 404), "DELETE", DELETE),
        on("/api/delete%00", (404,), "DELETE", DELETE),
        on("/api/chat%00.txt", (404,)),
        on("/api/chat;x", (404,)),
        on("/api;x/delete", (404,), "DELETE", DELETE),
        on("/api/delete/", (307, 403, 404), "DELETE", DELETE),
        on("/API/DELETE", (404,), "DELETE", DELETE),
        on("/api/d\u00e9lete", (400,), "DELETE", DELETE),
        on("/api/chat#x", (400,)),
        on("/v1/models/%2e%2e%2fapi%2fdelete", (400, 404), "GET", b""),
        on("/v1/models/..", (400, 404), "GET", b""),
        on("/v1/models/a%0ab", (400, 404), "GET", b""),
        on("/api/blobs/sha256:../../api/delete", (403, 404)),
        on("http://other/api/chat", (400,), name="absolute form with another authority"),
        on("http://user@localhost/api/chat", (400,), name="absolute form with userinfo"),
        on("gopher://localhost/api/chat", (400,), name="absolute form with another scheme"),
        on("localhost:80", (400, 404), name="authority form"),
        on("*", (400,)),
        Case("no Host", no_host, (400,)),
        Case("two Hosts", two_hosts, (400,)),
        Case("userinfo in Host", request("POST", "/api/chat", CHAT, host="user@localhost"), (400,)),
        Case("a Host that is no authority", request("POST", "/api/chat", CHAT, host="localhost:99999"), (400,)),
        on("/api/chat?" + "q" * LONGEST_TARGET, (414,), name="a target above 8 KiB"),
        on("/" + "a" * 4 * LONGEST_TARGET, (414, 431), name="a target of 32 KiB"),
        Case("a query is dropped", request("POST", "/api/chat?key=value", CHAT), (200,), reaches=1),
        Case("absolute form of the own authority", request("POST", "http://localhost/api/chat", CHAT), (200,), reaches=1),
    ]


def headers() -> list[Case]:
    def with_fields(name: str, fields: tuple[str, ...], status: tuple[int, ...], reaches: int = 0) -> Case:
        return Case(name, request("POST", "/api/chat", CHAT, fields), status, reaches)

    bearer = f"Authorization: Bearer {KEY}"
    override = ("X-HTTP-Method-Override: DELETE", "X-Method-Override: DELETE", "X-HTTP-Method: DELETE")
    return [
        Case("CONNECT", b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost:80\r\n\r\n", (405,), method="CONNECT"),
        on("/api/chat", (405,), "TRACE", b""),
        on("/api/chat", (405,), "DELETE"),
        on("/api/chat", (405, 404), "chat", name="an unknown method"),
        with_fields("method override is ignored", override, (200,), 1),
        with_fields("odd Expect", ("Expect: 200-ok",), (417,)),
        with_fields("two Expects", ("Expect: 100-continue", "Expect: x"), (417,)),
        with_fields("foreign Origin", ("Origin: https://evil.example",), (403,)),
        with_fields("Origin null", ("Origin: null",), (403,)),
        Case(
            "foreign Origin on GET",
            request("GET", "/api/tags", headers=("Origin: https://evil.example",)),
            (403,),
            method="GET",
        ),
        Case("foreign Host on a loopback listener", request("POST", "/api/chat", CHAT, host="evil.example"), (403,)),
        with_fields("Upgrade: h2c is ignored", ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"), (200,), 1),
        with_fields("Upgrade: websocket is ignored", ("Connection: Upgrade", "Upgrade: websocket"), (200, 426), 1),
        with_fields(f"head just above {HEAD_LIMIT // 1024} KiB", tuple(f"X-{n}: " + "a" * 1000 for n in range(70)), (431,)),
        with_fields("Authorization without keys", (bearer,), (200,), 1),
    ]


def keyed_headers() -> list[Case]:
    def with_fields(name: str, fields: tuple[str, ...], status: tuple[int, ...], reaches: int = 0) -> Case:
        return Case(name, request("POST", "/api/chat", CHAT, fields), status, reaches)

    bearer, other = f"Authorization: Bearer {KEY}", f"Authorization: Bearer {OTHER_KEY}"
    return [
        with_fields("a key", (bearer,), (200,), 1),
        with_fields("two Authorization", (bearer, other), (400,)),
        with_fields("the same key twice", (bearer, bearer), (200,), 1),
        with_fields("Authorization and a different X-Api-Key", (bearer, f"X-Api-Key: {OTHER_KEY}"), (400, 401)),
        with_fields("two keys in one field", (f"Authorization: Bearer {KEY}, Bearer {OTHER_KEY}",), (401,)),
        # Connection-named fields do not reach the backend; the gateway itself reads them first.
        with_fields("Connection: authorization, with the key", ("Connection: authorization", bearer), (200,), 1),
        with_fields("Connection: authorization, without a key", ("Connection: authorization",), (401,)),
        with_fields("an unknown key", ("Authorization: Bearer nobody",), (401,)),
        with_fields("an empty key", ("Authorization: Bearer ",), (401,)),
        with_fields("the digest instead of the key", ("Authorization: Bearer sha256:0",), (401,)),
        with_fields("Basic instead of Bearer", ("Authorization: Basic YTpi",), (401,)),
        Case("a key in the query", request("POST", f"/api/chat?api_key={KEY}&key={KEY}", CHAT), (401,)),
        Case("a key in a cookie", request("POST", "/api/chat", CHAT, (f"Cookie: Authorization={KEY}",)), (401,)),
    ]


def run(bench: Bench) -> None:
    for section, rows, keyed in (("target", targets(), False), ("header", headers(), False), ("header, with keys", keyed_headers(), True)):
        bench.chance.shuffle(rows)
        for case in rows:
            bench.run(section, case, keyed)
