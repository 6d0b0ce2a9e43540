"""Both ends of a realtime session through a gateway, in events, with an upstream that says what a test tells it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import orjson

from tests.kit.gateway import Gateway
from tests.kit.upstream import ScriptedUpstream
from tests.kit.websocket import CLOSE, PING, TEXT, Frame, Open, frame, open_session, read_frame

Event = dict[str, Any]

HELD = 1
"""LLM tokens that a session holds as long as it is open, whatever it does."""


@dataclass
class Talk:
    """An open session."""

    session: Open

    async def client_says(self, kind: str, **members: Any) -> None:
        """An event of the client's."""
        await self.session.from_client(frame(TEXT, orjson.dumps({"type": kind, **members})))

    async def upstream_says(self, kind: str, **members: Any) -> None:
        """An event of the upstream's, its type in front as servers write it."""
        await self.session.from_upstream(frame(TEXT, orjson.dumps({"type": kind, **members}), masked=False))

    async def client_hears(self, kind: str) -> Event:
        """The next event that the client gets, which has to be of this type."""
        return _of(await _next(self.session.client.reader), kind)

    async def upstream_hears(self, kind: str) -> Event:
        """The next event that the upstream gets, which has to be of this type."""
        return _of(await _next(self.session.turn.reader), kind)

    async def client_tells(self, kind: str, **members: Any) -> Event:
        """An event of the client's, which the upstream hears."""
        await self.client_says(kind, **members)
        return await self.upstream_hears(kind)

    async def upstream_tells(self, kind: str, **members: Any) -> Event:
        """An event of the upstream's, which the client hears."""
        await self.upstream_says(kind, **members)
        return await self.client_hears(kind)

    async def any_event(self) -> Event:
        """The next event that the client gets."""
        return await _next(self.session.client.reader)

    async def any_event_upstream(self) -> Event:
        """The next event that the upstream gets."""
        return await _next(self.session.turn.reader)

    async def begins(self, response_id: str = "resp_1", **members: Any) -> None:
        """The upstream begins a response, and the client hears it."""
        response = {"id": response_id, "conversation_id": "conv_1", "status": "in_progress", **members}
        heard = await self.upstream_tells("response.created", event_id="event_1", response=response)
        assert heard["response"]["id"] == response_id

    async def done(
        self, response_id: str = "resp_1", status: str = "completed", used: Any = None, **members: Any
    ) -> None:
        """The upstream ends a response, and the client hears it; `used` are LLM tokens read and written."""
        usage = used
        if isinstance(used, tuple):
            usage = {"input_tokens": used[0], "output_tokens": used[1], "total_tokens": sum(used)}
        response = {"id": response_id, "status": status, "usage": usage, **members}
        await self.upstream_tells("response.done", event_id="event_9", response=response)

    async def asked(self, response_id: str = "resp_1", **members: Any) -> None:
        """The client asks for a response, the upstream begins it, and the client hears so."""
        await self.client_tells("response.create", response=members)
        apart = {"conversation_id": None} if members.get("conversation") == "none" else {}
        await self.begins(response_id, **apart)

    async def close_frame(self) -> Frame:
        """The next close frame that the client gets; other events are passed over."""
        while (found := await read_frame(self.session.client.reader)).opcode != CLOSE:
            pass
        return found

    async def hang_up(self) -> None:
        """The client is gone."""
        await self.session.client.close()


async def talk(gateway: Gateway, upstream: ScriptedUpstream, **how: str) -> Talk:
    """Open a session through the gateway."""
    return Talk(await open_session(gateway, upstream, **how))


async def _next(reader: asyncio.StreamReader) -> Event:
    while (found := await read_frame(reader)).opcode == PING:
        pass
    assert found.opcode == TEXT, found
    event: Event = orjson.loads(found.payload)
    return event


def _of(event: Event, kind: str) -> Event:
    assert event["type"] == kind, event
    return event
