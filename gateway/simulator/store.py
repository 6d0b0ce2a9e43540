"""The simulator's objects. An object's path is its key: `/v1/threads/thread_1/messages/msg_2`.

So an object is found only under its own parent, a list is the objects of one collection path, and what hangs
under a deleted object is gone with it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final
from uuid import uuid4

from gateway.simulator.errors import ApiError
from gateway.simulator.forms import Content
from gateway.simulator.kinds import Kind

# A simulator under load forgets its oldest objects and bytes instead of growing without end.
MAX_OBJECTS: Final = 2_000
MAX_CONTENT_BYTES: Final = 64 * 2**20
_METADATA: Final = "metadata"


def now() -> int:
    return int(time.time())


def new_id(prefix: str) -> str:
    return prefix + uuid4().hex


class Store:
    """All objects and file contents of one simulator, whoever made them. Objects are handed out live."""

    def __init__(self, *, most_objects: int = MAX_OBJECTS) -> None:
        """`most_objects`: of one collection."""
        self._most_objects = most_objects
        self._collections: dict[str, dict[str, dict[str, Any]]] = {}
        self._children: dict[str, list[str]] = {}
        self._contents: dict[str, Content] = {}
        self._content_bytes = 0

    def create(
        self,
        collection: str,
        kind: Kind,
        fields: Mapping[str, Any],
        *,
        id: str | None = None,  # noqa: A002
    ) -> dict[str, Any]:
        """Make and keep an object: the kind's own fields, but for those that are given and not None."""
        created_at = now()
        made = {"id": id or new_id(kind.prefix), "object": kind.name, "created_at": created_at} | kind.fields
        if kind.lifetime_seconds is not None:
            made["expires_at"] = created_at + kind.lifetime_seconds
        made |= {name: value for name, value in fields.items() if name not in made or value is not None}
        return self.put(collection, made)

    def put(self, collection: str, made: dict[str, Any]) -> dict[str, Any]:
        """Keep an object as it is."""
        objects = self._collections.get(collection)
        if objects is None:
            objects = self._collections[collection] = {}
            self._children.setdefault(collection.rpartition("/")[0], []).append(collection)
        objects[made["id"]] = made
        if len(objects) > self._most_objects:
            self.delete(f"{collection}/{next(iter(objects))}")
        return made

    def has(self, path: str) -> bool:
        collection, _, object_id = path.rpartition("/")
        return object_id in self._collections.get(collection, ())

    def get(self, path: str) -> dict[str, Any]:
        """Raise ApiError 404 if there is no such object."""
        collection, _, object_id = path.rpartition("/")
        found = self._collections.get(collection, {}).get(object_id)
        if found is None:
            raise ApiError(404, f"No object with id '{object_id}' was found here.", param="id")
        return found

    def delete(self, path: str) -> None:
        """Forget an object, its content and everything under it. Raise ApiError 404 if there is none."""
        self.get(path)
        collection, _, object_id = path.rpartition("/")
        del self._collections[collection][object_id]
        content = self._contents.pop(path, None)
        self._content_bytes -= len(content.kept) if content else 0
        for child in self._children.pop(path, ()):
            for child_id in list(self._collections[child]):
                self.delete(f"{child}/{child_id}")
            del self._collections[child]

    def all(self, collection: str) -> list[dict[str, Any]]:
        """Every object of a collection, oldest first."""
        return list(self._collections.get(collection, {}).values())

    def page(self, collection: str, query: Mapping[str, str], kind: Kind) -> dict[str, Any]:
        """One page of a list, as limit, order, after and before ask. Raise ApiError if they make no sense."""
        found = [one for one in self.all(collection) if _is_asked_for(one, query, kind.filters)]
        if not _begins_with_oldest(query.get("order") if kind.ordered else None, kind):
            found.reverse()
        limit = _limit(query.get("limit"), kind)
        start = _place(found, "after", query["after"]) + 1 if query.get("after") else 0
        stop = _place(found, "before", query["before"]) if query.get("before") else len(found)
        window = found[start:stop]
        # The page before a cursor is the one that ends at it.
        shown = window[-limit:] if start == 0 and stop < len(found) else window[:limit]
        return {
            "object": "list",
            "data": shown,
            "first_id": shown[0]["id"] if shown else None,
            "last_id": shown[-1]["id"] if shown else None,
            "has_more": len(window) > len(shown),
        }

    def keep(self, path: str, content: Content) -> None:
        """Keep the bytes that belong to an object; the oldest bytes give way, their length stays known."""
        self._contents[path] = content
        self._content_bytes += len(content.kept)
        for oldest in self._contents.values():
            if self._content_bytes <= MAX_CONTENT_BYTES:
                return
            self._content_bytes -= len(oldest.kept)
            oldest.kept = b""

    def content(self, path: str) -> Content | None:
        return self._contents.get(path)


def _is_asked_for(one: Mapping[str, Any], query: Mapping[str, str], filters: tuple[str, ...]) -> bool:
    for name in filters:
        if name in query and one.get(name) != query[name]:
            return False
    if _METADATA not in filters:
        return True
    given = one.get(_METADATA) or {}
    return all(
        given.get(name.removeprefix(f"{_METADATA}[").removesuffix("]")) == value
        for name, value in query.items()
        if name.startswith(f"{_METADATA}[")
    )


def _begins_with_oldest(order: str | None, kind: Kind) -> bool:
    if order not in (None, "asc", "desc"):
        raise ApiError(400, "Invalid 'order': expected 'asc' or 'desc'.", param="order")
    return kind.oldest_first if order is None else order == "asc"


def _limit(text: str | None, kind: Kind) -> int:
    if text is None:
        return kind.page_size
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= kind.most_listed:
        raise ApiError(400, f"Invalid 'limit': expected 1 to {kind.most_listed}.", param="limit")
    return int(text)


def _place(found: list[dict[str, Any]], name: str, cursor: str) -> int:
    for at, one in enumerate(found):
        if one["id"] == cursor:
            return at
    raise ApiError(400, f"Invalid '{name}': no object with id '{cursor}' in this list.", param=name)
