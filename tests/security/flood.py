"""Floods the progress port: a process that posts at a rate, whatever the answers, and then prints what came back.

Reads one JSON object from its input: port, authority (PEM), tokens by their name, rate, seconds.
"""

import asyncio
import json
import ssl
import sys
import time
from collections import Counter
from dataclasses import dataclass, field

ADDRESSES = [f"127.9.0.{number}" for number in range(1, 33)]
"""As many pods would have. An attacker with fewer is stopped earlier, by the limit of an address."""
KINDS = ("wrong audience", "new junk", "other job", "no token", "oversize", "slow", "plain text", "silent")
_AT_ONCE = 3000
_PATIENCE = 30.0
_REPORT = json.dumps({"runReport": {"progress": {"step": 99, "totalSteps": 100, "percent": 99}}}).encode()


@dataclass
class Flood:
    """Where to, with what."""

    port: int
    authority: str
    tokens: dict[str, str]
    rate: float
    seconds: float
    answers: Counter[str] = field(default_factory=Counter)

    async def run(self) -> dict[str, object]:
        """Post at the rate; numbers of what was offered and of every answer."""
        tls = ssl.create_default_context(cadata=self.authority)
        free = asyncio.Semaphore(_AT_ONCE)
        total, begun = int(self.rate * self.seconds), time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(total):
                if (early := begun + number / self.rate - time.monotonic()) > 0:
                    await asyncio.sleep(early)
                await free.acquire()
                group.create_task(self._one(number, tls)).add_done_callback(lambda _: free.release())
            offered = time.monotonic() - begun
        return {"offered": total, "seconds": round(offered, 1), "answers": dict(sorted(self.answers.items()))}

    async def _one(self, number: int, tls: ssl.SSLContext) -> None:
        kind = KINDS[number % len(KINDS)]
        source = ADDRESSES[number // len(KINDS) % len(ADDRESSES)]
        try:
            async with asyncio.timeout(_PATIENCE):
                answer = await self._attack(kind, number, source, tls)
        except (OSError, EOFError, TimeoutError, ValueError) as error:
            answer = "closed" if not isinstance(error, TimeoutError) else "no answer"
        self.answers[f"{kind}: {answer}"] += 1

    async def _attack(self, kind: str, number: int, source: str, tls: ssl.SSLContext) -> str:
        plain = kind in ("plain text", "silent")
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.port, local_addr=(source, 0), ssl=None if plain else tls,
            server_hostname=None if plain else "127.0.0.1", limit=2**20,
        )  # fmt: skip
        try:
            if kind == "slow":
                return await _drip(writer, reader, _head(self.tokens["wrong audience"], 1000))
            if kind != "silent":
                writer.write(self._request(kind, number))
            line = await reader.readline()
            return line.split()[1].decode() if line.startswith(b"HTTP/") else "closed"
        finally:
            writer.transport.abort()

    def _request(self, kind: str, number: int) -> bytes:
        if kind == "oversize":
            return _head(self.tokens["other job"], 70_000) + b"x" * 70_000
        token = {"no token": "", "new junk": f"junk.{number}.junk"}.get(kind) or self.tokens.get(kind, "")
        return _head(token, len(_REPORT)) + _REPORT


def _head(token: str, length: int) -> bytes:
    lines = ["POST /v1/progress HTTP/1.1", "Host: x", f"Content-Length: {length}"]
    lines += [f"Authorization: Bearer {token}"] if token else []
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _drip(writer: asyncio.StreamWriter, reader: asyncio.StreamReader, head: bytes) -> str:
    """A byte of the body now and then, until the other side has enough of it."""
    writer.write(head)
    answer = asyncio.ensure_future(reader.readline())
    while not answer.done():
        writer.write(b"x")
        await asyncio.sleep(1)
    line = await answer
    return line.split()[1].decode() if line.startswith(b"HTTP/") else "closed"


if __name__ == "__main__":
    print(json.dumps(asyncio.run(Flood(**json.loads(sys.stdin.read())).run())), flush=True)
