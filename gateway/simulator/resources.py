"""Create, read, list, update, delete: what the operation table says an operation does, done to the store."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from gateway.operations.table import Operation
from gateway.simulator.call import Call, Handler, Reply, as_json, paced
from gateway.simulator.errors import ApiError
from gateway.simulator.forms import Content
from gateway.simulator.kinds import Kind, kind_of
from gateway.simulator.store import now

# What an object becomes by POST …/{id}/verb; a cancelled one as its kind says.
_STATUS_AFTER: Final = {"archive": "archived", "pause": "paused", "resume": "running"}
_ENDED: Final = frozenset({"completed", "cancelled", "failed", "expired", "succeeded", "archived"})
_IDENTITY: Final = ("id", "object", "created_at")
# Made by operations whose own object the table does not name, or there from the start.
_MADE_ELSEWHERE: Final = ("model", "chat_completion", "run_step")


@dataclass(frozen=True, slots=True)
class Resource:
    """Where the objects of one operation live: path templates, to be filled with the call's parameters."""

    kind: Kind
    collection: str
    id_param: str | None
    # The last word of a path that goes on after the object's id, or stands for it.
    verb: str
    # The field whose value a new object has as its id, if it was sent: a user joins a project as that user.
    named_by: str
    # The object it hangs under, if the API can make such objects: then it must exist.
    parent: str | None
    # Nothing in the API makes these (an organization's users): one that is asked for exists.
    invented: bool

    async def create(self, call: Call) -> Reply:
        """Make and keep an object with the fields that were sent; the first uploaded file is its content."""
        self._check_parent(call)
        body = await call.body(*self.kind.required)
        sent = {name: value for name, value in body.items() if name not in _IDENTITY and not _files(value)}
        fields: dict[str, Any] = {**call.params, **sent}
        uploaded = [file for value in body.values() for file in _files(value)]
        if uploaded:
            fields |= {"bytes": uploaded[0].length_bytes, "filename": uploaded[0].filename}
        collection = self.collection.format_map(call.params)
        made = call.store.create(collection, self.kind, fields, id=body.get(self.named_by))
        if uploaded:
            call.store.keep(f"{collection}/{made['id']}", uploaded[0])
        return as_json(made)

    async def read(self, call: Call) -> Reply:
        found = self._found(call)
        if self.verb != "content":
            return as_json(found)
        said = f"Simulated content of {found['id']}".encode()
        return ranged(call, call.store.content(self._path(call)) or Content.of("", "text/plain", said))

    async def list(self, call: Call) -> Reply:
        self._check_parent(call)
        collection = self.collection.format_map(call.params)
        return as_json(call.store.page(collection, call.request.query, self.kind))

    async def update(self, call: Call) -> Reply:
        found = self._found(call)
        found |= {name: value for name, value in (await call.body()).items() if name not in _IDENTITY}
        status = self.kind.cancelled if self.verb == "cancel" else _STATUS_AFTER.get(self.verb)
        if status is not None:
            if found.get("status") in _ENDED:
                raise ApiError(400, f"Cannot {self.verb} an object with status '{found['status']}'.")
            found |= {"status": status, f"{status}_at": now()}
        return as_json(found)

    async def delete(self, call: Call) -> Reply:
        found = self._found(call)
        call.store.delete(self._path(call))
        name = self.kind.deleted_name or f"{self.kind.name}.deleted"
        return as_json({"id": found["id"], "object": name, "deleted": True})

    def _found(self, call: Call) -> dict[str, Any]:
        """The object that the call names. Raise ApiError 404 if there is none."""
        self._check_parent(call)
        path = self._path(call)
        if self.invented and not call.store.has(path):
            collection, _, named = path.rpartition("/")
            return call.store.create(collection, self.kind, call.params, id=named)
        return call.store.get(path)

    def _check_parent(self, call: Call) -> None:
        if self.parent is not None:
            call.store.get(self.parent.format_map(call.params))

    def _path(self, call: Call) -> str:
        named = call.params[self.id_param] if self.id_param else self.verb
        return f"{self.collection.format_map(call.params)}/{named}"


def _files(value: Any) -> list[Content]:
    return [item for item in (value if isinstance(value, list) else [value]) if isinstance(item, Content)]


def ranged(call: Call, content: Content) -> Reply:
    """The bytes of a file, or the one range of them that was asked for (206, 416)."""
    status, start, stop = 200, 0, content.length_bytes
    headers = {"Accept-Ranges": "bytes"}
    try:
        wanted = call.request.http_range
    except ValueError:
        # A Range that makes no sense is as good as none (RFC 9110, 14.2).
        wanted = slice(None)
    if (wanted.start, wanted.stop) != (None, None):
        status, (start, stop, _) = 206, wanted.indices(content.length_bytes)
        if start >= stop:
            unsatisfied = {"Content-Range": f"bytes */{content.length_bytes}"}
            return Reply(b"", 416, content.media_type, unsatisfied)
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{content.length_bytes}"
    return Reply(paced(content.pieces(start, stop)), status, content.media_type, headers, stop - start)


def generic_handlers(operations: Iterable[Operation]) -> dict[str, Handler]:
    """By operation id, a handler for every operation of the table."""
    operations = list(operations)
    homes = {o.object_kind: f"{o.path}/{{}}" for o in operations if o.object_action == "create"}
    creatable = {*homes, *_MADE_ELSEWHERE}
    homes |= {o.object_kind: o.path for o in operations if o.path.endswith("}")}
    parents = {homes[kind].rpartition("/")[0] for kind in creatable}
    return {
        o.id: _acknowledge if o.object_kind == "none" else _handler(o, homes, parents, creatable)
        for o in operations
    }


async def _acknowledge(call: Call) -> Reply:
    """What an operation without an object of its own answers, unless it is written by hand."""
    await call.body()
    return as_json({"object": "simulated"})


def _handler(operation: Operation, homes: dict[str, str], parents: set[str], creatable: set[str]) -> Handler:
    path, kind, action = operation.path, operation.object_kind, operation.object_action
    home, _, named_by = homes.get(kind, f"{path}/{{}}").rpartition("/")
    collection, id_param, verb = home, None, ""
    if action in ("create", "list"):
        collection = home if _params(home) <= _params(path) else path
    elif path.startswith(home + "/{"):
        id_param, _, verb = path.removeprefix(home + "/{").partition("}")
    else:
        # The only one of its kind where it is: its last word stands for its id.
        collection, _, verb = path.rpartition("/")
    owner = collection.rpartition("/")[0]
    resource = Resource(
        kind=kind_of(kind),
        collection=collection,
        id_param=id_param,
        named_by=named_by.strip("{}"),
        verb=verb.removeprefix("/"),
        parent=owner if owner.endswith("}") and owner.rpartition("/")[0] in parents else None,
        invented=id_param is None or (kind not in creatable and operation.is_administration),
    )
    handlers = {
        "create": resource.create,
        "read": resource.read,
        "list": resource.list,
        "update": resource.update,
        "delete": resource.delete,
    }
    return handlers[action]


def _params(template: str) -> set[str]:
    return {segment for segment in template.split("/") if segment.startswith("{")}
