"""A program that sends requests at a fixed rate, whether or not they are answered, and prints what came of them.

Arguments: HOST PORT RATE SECONDS BODY_BYTES SEED. Prints one JSON object.
"""

import asyncio
import json
import random
import sys
import time

LIMIT = 60.0


async def answer(reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
    """Status, body and whether the connection closes."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head[9:12])
    if b"content-length:" in head:
        length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
    else:
        body = b""
        while size := int(await reader.readuntil(b"\r\n"), 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
    return status, body, b"connection: close" in head


class Load:
    def __init__(self, host: str, port: int, body_bytes: int, chance: random.Random):
        self.address, self.chance = (host, port), chance
        self.filler = "x" * body_bytes
        self.idle: list = []
        self.done: list[tuple[float, float, int]] = []
        """The end, the duration and the status of each request; status 0 is none, 1 an incomplete answer."""

    async def one(self, number: int) -> None:
        body = json.dumps({"model": "tiny", "stream": self.chance.random() < 0.5, "prompt": f"{number} {self.filler}"}).encode()
        head = f"POST /api/generate HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        began, status = time.monotonic(), 0
        try:
            async with asyncio.timeout(LIMIT):
                streams = self.idle.pop() if self.idle else await asyncio.open_connection(*self.address)
                reader, writer = streams
                began = time.monotonic()
                writer.write(head + body)
                status, text, closes = await answer(reader)
                if status == 200 and b'"done":true' not in text:
                    status = 1
                if closes:
                    writer.close()
                else:
                    self.idle.append(streams)
        except (OSError, EOFError, asyncio.IncompleteReadError, TimeoutError):
            pass
        self.done.append((time.monotonic(), time.monotonic() - began, status))

    async def run(self, rate: float, seconds: float) -> dict:
        began, tasks = time.monotonic(), set()
        for number in range(int(rate * seconds)):
            if (wait := began + number / rate - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            tasks.add(task := asyncio.create_task(self.one(number)))
            task.add_done_callback(tasks.discard)
        sent = time.monotonic()
        while tasks:
            await asyncio.wait(tasks)
        # From the first quarter on, until the last one was sent: then the queue is full all the time.
        middle = [one for one in self.done if began + (sent - began) / 4 <= one[0] <= sent]
        statuses: dict[int, int] = {}
        for _, _, status in self.done:
            statuses[status] = statuses.get(status, 0) + 1
        return {
            "requests": len(self.done),
            "seconds": sent - began,
            "statuses": statuses,
            "goodput": sum(one[2] == 200 for one in middle) / max(0.001, (sent - began) * 0.75),
            "rejects": sorted(one[1] for one in middle if one[2] in (429, 503)),
        }


async def main() -> None:
    host, port, rate, seconds, size, seed = sys.argv[1:]
    result = await Load(host, int(port), int(size), random.Random(int(seed))).run(float(rate), float(seconds))
    print(json.dumps(result))


if __name__ == "__main__":
    asyncio.run(main())
