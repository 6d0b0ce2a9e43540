"""Usage in the streams of chat and completions that report it only when asked: rewrite (a).

The body is made to ask, and the event that the upstream adds because of it is taken out of the answer; all other
bytes stay: order, blanks, spelling of names and numbers. Pure.
"""

import re

import orjson

from gateway.wire.json_members import Change, members, place_of
from gateway.wire.request_fields import BodyRefused
from gateway.wire.sse import SseEvent

_MOST_BYTES = 64 * 1024
_NO_CHOICES = re.compile(rb'"choices"\s*+:\s*+\[\s*+\]')


def asking_for_usage(body: bytes) -> Change | None:
    """What makes a streamed chat or completions answer report its usage.

    None when the body asks already, and when its options are such that the upstream will refuse them. Raises
    BodyRefused when they say it twice. `body` is a JSON object that names its options once at most.
    """
    place = place_of(body, "stream_options")
    options = body[place.begin : place.end]
    if options in (b"", b"null"):
        return place.filled(b'{"include_usage":true}')
    parsed = orjson.loads(options)
    if not isinstance(parsed, dict) or parsed.get("include_usage") not in (None, False):
        return None
    if sum(member.name == "include_usage" for member in members(options)) > 1:
        param = "stream_options.include_usage"
        raise BodyRefused("duplicate_parameter", f"{param} is given more than once.", param=param)
    begin, end, raw = place_of(options, "include_usage").filled(b"true")
    return Change(place.begin + begin, place.begin + end, raw)


def is_added_usage(event: SseEvent) -> bool:
    """Whether this is the event that `include_usage` adds: usage, and a list of choices that is empty.

    Others have empty choices too (the results of a prompt filter, say) but carry no usage; and none is large.
    """
    if not event.whole or len(event.raw) > _MOST_BYTES:
        return False
    if b'"usage"' not in event.raw or not _NO_CHOICES.search(event.raw):
        return False
    try:
        chunk = orjson.loads(event.data)
    except orjson.JSONDecodeError:
        return False
    return isinstance(chunk, dict) and chunk.get("choices") == [] and isinstance(chunk.get("usage"), dict)
