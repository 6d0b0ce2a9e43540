"""What `metering` measures: a gateway as it is or `without` metering, and what reads `answers` and `events`.

Run by its path, by `metering`. It imports nothing but the gateway, so that it can do so of another checkout.
"""

from __future__ import annotations

import sys


def _serve(*, metered: bool) -> int:
    """The gateway of `gateway bench`; not metered: nobody reads what was used, nor counts it."""
    from gateway import middleware
    from gateway.cli.bench import measured

    if not metered:
        vars(middleware)["meter"] = lambda **_: lambda handler: handler
    return measured.main()


def _read_events(count: int) -> int:
    """Events as the public API has them, one by one, to a reader that nobody tells what comes."""
    from gateway.usage.reader import UsageReader

    event = (
        b'data: {"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1741570283,'
        b'"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_fc9f1d7035","choices":'
        b'[{"index":0,"delta":{"content":" word"},"logprobs":null,"finish_reason":null}],"usage":null,'
        b'"obfuscation":"%b"}\n\n'
    )
    events = [event % (b"abcdefgh"[: at % 8 + 1]) for at in range(16)]
    reader = UsageReader(b"text/event-stream", None)
    watch = reader.watcher
    assert watch is not None
    usual = reader.usual()
    for at in range(count):
        one = events[at & 15]
        if usual is None or not usual(one):
            watch(one)
            usual = reader.usual()
    reader.finish()
    return 0


def _read_answers(count: int) -> int:
    """Small JSON answers, each by a reader of its own."""
    from gateway.bench.canned import CHAT_ANSWER
    from gateway.usage.reader import UsageReader

    answer = CHAT_ANSWER.partition(b"\r\n\r\n")[2]
    for _ in range(count):
        reader = UsageReader(b"application/json", None)
        watch = reader.watcher
        assert watch is not None
        watch(answer)
        assert reader.finish() is not None
    return 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["events", count]:
            raise SystemExit(_read_events(int(count)))
        case ["answers", count]:
            raise SystemExit(_read_answers(int(count)))
        case [how, *_]:
            raise SystemExit(_serve(metered=how == "with"))
