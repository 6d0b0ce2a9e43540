"""What is read in a document: the same of a small and a large one, and never much of it."""

from __future__ import annotations

import pickle

import pytest

from gateway.policy.reading import Question, read_body
from gateway.wire.body_facts import BodyFacts
from gateway.wire.request_fields import BodyRefused

EVERYTHING = Question(
    model_path=("model",), models=True, stored=True, prompt=True, default_model=True, usage=True
)
PAD = b'"pad":"' + b"a" * 70_000 + b'"'


def read(body: bytes, question: Question = EVERYTHING) -> BodyFacts | str:
    try:
        return read_body(body, question)
    except BodyRefused as refused:
        return refused.fault.code


@pytest.mark.parametrize(
    "members",
    [
        b'"model":"m"',
        b'"stream":true',
        b'"model":"m","tools":[{"type":"function","model":"n"}]',
        b'"model":"m","x":{"Model":"n"}',
        b'"model":"m","x":{"\\u006dodel":"n"}',
        b'"model":"m","models":["a","b","a"]',
        b'"model":"m","x":1,"x":2',
        b'"model":"m","x":{"model":"a","model":"b"}',
        b'"model":"m","x":{"y":1,"y":2},"file_id":"file-1"',
        b'"model":"m","file_id":"file-1"',
        b'"model":"m","tools":[{"type":"image_generation"}]',
        b'"model":"m","metadata":{"model":"other"}',
        b'"model":"m","model":"n"',
        b'"model":7',
        b'"model":"m","stream":true,"stream_options":{"include_usage":false,"include_usage":null}',
    ],
)
def test_a_large_document_reads_like_a_small_one(members: bytes) -> None:
    small, large = read(b'{"pad":"",%b}' % members), read(b"{%b,%b}" % (PAD, members))

    if isinstance(small, str):
        assert large == small
    else:
        assert isinstance(large, BodyFacts)
        # The one model that stands in its place may be found once more.
        assert {"m", *large.named.models} == {"m", *small.named.models}
        assert large.named._replace(models=()) == small.named._replace(models=())
        assert large.fields == small.fields
        assert (large.model_place is None) == (small.model_place is None)
        assert (large.asks_for_usage is None) == (small.asks_for_usage is None)


@pytest.mark.parametrize(
    "members",
    [
        b'"stream":true,"stream_options":{"x":"%b"}' % (b"a" * 10**6),
        b'"model":"m","%b_id":"x"' % (b"a" * 10**6),
        b'"model":"m","x":{"%b":{"tools":[{"type":"image_generation"}]}}' % (b"a" * 10**6),
        b'"model":"m","models":["%b"]' % (b"a" * 10**6),
        b'"model":"%b"' % (b"a" * 10**6),
        b'"model":"m","models":[%b]' % b",".join(b'"m%d"' % n for n in range(50_000)),
        b'"endpoint":"/v1/%b"' % (b"a" * 10**6),
        b'"endpoint":"/v1/embeddings","input_file_id":"%b"' % (b"a" * 10**6),
        b'"n":"%b"' % (b"a" * 10**6),
        b'"input":"%b"' % (b"a" * 10**6),
    ],
)
def test_facts_are_small(members: bytes) -> None:
    for question in (EVERYTHING, EVERYTHING._replace(model_path=None, batch=True)):
        assert len(pickle.dumps(read(b"{%b}" % members, question))) < 20_000
