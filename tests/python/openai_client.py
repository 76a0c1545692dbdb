"""A client of an OpenAI-compatible API, with the real `openai` package: one process, one source address.

Writes one JSON object a line for each request to --log: start (seconds since the epoch), headers_s, first_chunk_s
and duration_s (seconds since start, null when it did not get there), chunks, stream, error. The exit code is 1 when
a request failed.
"""

import argparse
import asyncio
import json
import math
import random
import ssl
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx2
from openai import AsyncOpenAI, OpenAIError

WORDS = "why does warm water seem to freeze before cold when the pond is still and what would you try to show it".split()


@dataclass(frozen=True)
class Pace:
    """When requests start: `back-to-back`, `interval:SECONDS` or `bursty:MOST_IN_A_BURST:MEAN_PAUSE_SECONDS`."""

    kind: str
    numbers: tuple[float, ...]

    @staticmethod
    def parse(text: str) -> "Pace":
        """Reads the command-line form."""
        kind, *numbers = text.split(":")
        if {"back-to-back": 0, "interval": 1, "bursty": 2}.get(kind) != len(numbers):
            raise argparse.ArgumentTypeError(f"{text!r} is none of back-to-back, interval:S, bursty:N:S")
        return Pace(kind, tuple(float(number) for number in numbers))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", required=True, help="e.g. https://10.77.0.1:8443/v1")
    parser.add_argument("--ca", help="certificate to trust")
    parser.add_argument("--source", help="local address to connect from")
    parser.add_argument("--log", required=True, help="file for one JSON line a request")
    parser.add_argument("--requests", type=int, help="stop after this many")
    parser.add_argument("--duration", type=float, help="start none after this many seconds")
    parser.add_argument("--concurrency", type=int, default=1, help="requests at a time")
    parser.add_argument("--pace", type=Pace.parse, default=Pace("back-to-back", ()), help=Pace.__doc__)
    parser.add_argument("--stream", choices=["always", "never", "mixed"], default="never")
    parser.add_argument("--top-logprobs", type=int, help="ask for log-probabilities with this many alternatives")
    parser.add_argument("--max-tokens", type=int, default=16)
    parser.add_argument("--prompt-words", type=int, nargs=2, default=[4, 60], metavar=("LEAST", "MOST"))
    parser.add_argument("--http2", action="store_true", help="HTTP/2, in clear text with prior knowledge")
    parser.add_argument("--no-keep-alive", action="store_true", help="a connection for every request")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    if given.requests is None and given.duration is None:
        parser.error("one of --requests and --duration is needed")
    return given


def connect(given: argparse.Namespace) -> AsyncOpenAI:
    """The API client: its own source address, its own pool of connections."""
    limits = httpx2.Limits(
        max_connections=given.concurrency,
        max_keepalive_connections=0 if given.no_keep_alive else given.concurrency,
        keepalive_expiry=60.0,
    )
    transport = httpx2.AsyncHTTPTransport(
        verify=ssl.create_default_context(cafile=given.ca),
        http1=not given.http2,
        http2=given.http2,
        limits=limits,
        local_address=given.source,
    )
    http = httpx2.AsyncClient(transport=transport, timeout=60.0, trust_env=False)
    # A retry would be a request that this log does not know.
    return AsyncOpenAI(base_url=given.base_url, api_key="none", http_client=http, max_retries=0)


async def starts(pace: Pace, dice: random.Random, end: float) -> AsyncIterator[None]:
    """Yields when the next request is due, without end; pauses only until `end`."""

    async def pause(seconds: float) -> None:
        await asyncio.sleep(max(0.0, min(seconds, end - time.monotonic())))

    if pace.kind == "back-to-back":
        while True:
            yield
    elif pace.kind == "interval":
        due = time.monotonic()
        while True:
            yield
            due += pace.numbers[0]
            await pause(due - time.monotonic())
    else:
        most, mean = pace.numbers
        while True:
            for _ in range(dice.randint(1, int(most))):
                yield
                await pause(dice.uniform(0.05, 0.6))
            await pause(dice.expovariate(1.0 / mean))


class Run:
    """All requests of this process."""

    def __init__(self, given: argparse.Namespace, log) -> None:
        self.given = given
        self.log = log
        self.dice = random.Random(given.seed)
        self.end = time.monotonic() + (math.inf if given.duration is None else given.duration)
        self.started = 0
        self.failed = 0

    def wants_more(self) -> bool:
        """Whether another request may start."""
        if self.given.requests is not None and self.started >= self.given.requests:
            return False
        return time.monotonic() < self.end

    async def work(self, api: AsyncOpenAI) -> None:
        """One of the --concurrency workers."""
        async for _ in starts(self.given.pace, self.dice, self.end):
            if not self.wants_more():
                return
            self.started += 1
            await self.ask(api)

    async def ask(self, api: AsyncOpenAI) -> None:
        """One request and its line in the log."""
        given, dice = self.given, self.dice
        stream = {"always": True, "never": False, "mixed": dice.random() < 0.5}[given.stream]
        options = {}
        if given.top_logprobs is not None:
            options = {"logprobs": True, "top_logprobs": given.top_logprobs}
        prompt = " ".join(dice.choices(WORDS, k=dice.randint(*given.prompt_words)))
        line = {"start": time.time(), "headers_s": None, "first_chunk_s": None, "chunks": 0, "stream": stream, "error": None}
        began = time.monotonic()
        try:
            answer = await api.chat.completions.create(
                model="hydrometer-test",
                messages=[{"role": "user", "content": prompt}],
                max_tokens=given.max_tokens,
                stream=stream,
                **options,
            )
            line["headers_s"] = time.monotonic() - began
            if stream:
                async for _ in answer:
                    if line["first_chunk_s"] is None:
                        line["first_chunk_s"] = time.monotonic() - began
                    line["chunks"] += 1
        except OpenAIError as error:
            line["error"] = f"{type(error).__name__}: {error}"
            self.failed += 1
        line["duration_s"] = time.monotonic() - began
        print(json.dumps(line), file=self.log, flush=True)


async def main() -> int:
    """Runs the workers; the number of failed requests decides the exit code."""
    given = arguments()
    with open(given.log, "w", encoding="utf-8") as log:
        async with connect(given) as api:
            run = Run(given, log)
            await asyncio.gather(*(run.work(api) for _ in range(given.concurrency)))
    if run.failed:
        print(f"{run.failed} of {run.started} requests failed; see {given.log}", file=sys.stderr)
    return 1 if run.failed else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
