"""A trial tells what it could not measure, and why."""

from __future__ import annotations

import os

from gateway.bench.trial import Extent, Subject, Trial
from gateway.bench.works import Target
from tests.bench.test_client import answering, scripted

REFUSAL = b'HTTP/1.1 503 Busy\r\nContent-Length: 6\r\n\r\n"full"'
LITTLE = Extent(seconds=5, streams=2, silent=2, idle=2, connections=2, rounds=1)


async def test_what_went_wrong_is_among_its_problems_by_kind_and_quoted() -> None:
    async with scripted(answering(REFUSAL)) as target:
        subject = Subject(target, os.getpid())
        trial = Trial(Target(port=target.port), LITTLE)
        assert await trial.memory_per_stream(subject) == 0.0
        assert await trial.memory_per_connection(subject) == 0.0
        assert (await trial.requests(subject, 1.0)).outcome["ok"] == 0
    assert 'silent streams: 2 × status 503, of 2 sent ("full")' in trial.problems
    assert 'idle connections: 2 × status 503, of 2 sent ("full")' in trial.problems
    assert any(problem.startswith("small JSON requests: ") for problem in trial.problems)
