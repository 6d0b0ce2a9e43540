"""`gateway objects import`: whose stored objects are, from an export, and from the log.

A line of the log that names what was made has `created`, pairs of kind and id, beside `tenant`, `time`, and `storage`
or the name of the `upstream` by which the configuration knows it. What there was no room to keep waiting is in a line
of the process (`objects/registry.py`), whole, and what waits is in files of such lines (`objects/spool.py`).
"""

from __future__ import annotations

import argparse
import gzip
import zlib
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from gateway.cli import drawing
from gateway.cli.drawing import shown
from gateway.cli.objects.asking import Asked, add, answered, lines_of_input, scope_of
from gateway.objects.keys import DIGEST_BYTES, is_id
from gateway.objects.steps import Step
from gateway.objects.store import Made, Named, Scope
from gateway.operations.stored_kinds import StoredKinds
from gateway.policy.accounts import listed

_AT_ONCE = 1000
_MOST_SAID = 5
_STEP = b'{"tenant":'
_GZIP = b"\x1f\x8b"
"""How a file begins that log rotation has compressed."""


class Portion(NamedTuple):
    """What a line says that belongs to a tenant."""

    scope: Scope
    made: Sequence[Made] = ()
    kind: str = ""
    digests: Sequence[tuple[bytes, int]] = ()


class Reader:
    """Understands lines. Raises ValueError, KeyError or TypeError for one that says of something and cannot be used."""

    def __init__(self, kinds: StoredKinds, storages: dict[str, str]) -> None:
        """`storages`: where objects are stored, by the name of the upstream."""
        self._kinds = kinds
        self._storages = storages

    def read(self, line: bytes) -> Portion | None:
        """None for one that says nothing of objects."""
        document = orjson.loads(line)
        if "entries" in document:
            kind = self._kind(document)
            made = [_made(kind, name, float(created)) for name, created in document["entries"]]
            return Portion(_scope(document), made)
        if "digests" in document:
            kind = self._kind(document)
            if self._kinds[kind].is_listed:
                raise ValueError(f"digests of {kind}, which is known by its ids")
            digests = [(_digest(text), int(day)) for text, day in document["digests"]]
            return Portion(_scope(document), kind=kind, digests=digests)
        if document.get("created"):
            at = datetime.fromisoformat(document["time"]).timestamp()
            made = [_made(self._known(kind), name, at) for kind, name in document["created"]]
            storage = document.get("storage") or self._storages[document["upstream"]]
            return Portion(Scope(storage, str(document["tenant"])), made)
        if "made" in document:
            return self._of_step(line)
        return self._of_process(document)

    def _of_process(self, document: dict[str, Any]) -> Portion | None:
        message = document.get("message")
        if document.get("logger") != "gateway.objects" or not isinstance(message, str):
            return None
        at = message.find(_STEP.decode())
        if at < 0:
            return None
        return self._of_step(message[at:].encode())

    def _of_step(self, line: bytes) -> Portion:
        step = Step.read(line)
        return Portion(step.scope, [one for one in step.made if self._known(one.kind)])

    def _kind(self, document: dict[str, Any]) -> str:
        return self._known(document["kind"])

    def _known(self, kind: str) -> str:
        return self._kinds[kind].name


def add_to(actions: Any) -> None:
    """Add the command."""
    command = add(
        actions,
        "import",
        _import,
        help="bring back whose stored objects are, from an export or from the log",
        description="Takes lines of an export, and lines of the log that say what was made; others are passed over. "
        "Importing twice changes nothing. What Redis has lost counts as brought back for whoever is in them.",
    )
    command.add_argument(
        "file",
        nargs="*",
        type=Path,
        metavar="FILE",
        help="without one, standard input; export first, then the logs since",
    )
    command.add_argument("--dry-run", action="store_true", help="only count what would be brought back")


class Recorder:
    """Tells the store what lines say, many objects at a time. What is another tenant's by now stays that one's: a log
    of before does not know who was given something since."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._waiting: dict[Scope, list[Made]] = {}
        self.new = 0
        self.others = 0
        """Objects that were left to whom they belong."""

    async def take(self, portion: Portion) -> None:
        """Record it, now or with more of the same tenant's."""
        if portion.digests:
            store = self._asked.store
            self.new += await store.record_digests(portion.scope, portion.kind, portion.digests)
        waiting = self._waiting.setdefault(portion.scope, [])
        waiting += portion.made
        if len(waiting) >= _AT_ONCE:
            await self._record(portion.scope)

    async def finish(self) -> None:
        """Record what is left."""
        for scope in tuple(self._waiting):
            await self._record(scope)

    async def _record(self, scope: Scope) -> None:
        made = self._waiting.pop(scope)
        owners = await self._asked.owners(scope.storage, [Named(one.kind, one.id) for one in made])
        free = [one for one, its in zip(made, owners, strict=True) if not its or scope.tenant in its]
        self.others += len(made) - len(free)
        self.new += await self._asked.store.record(scope, free)


def _import(options: argparse.Namespace) -> int:
    async def work(asked: Asked) -> int:
        storages = {policy.access.name: scope_of(policy).storage for policy in asked.policies.values()}
        reader, recorder = Reader(asked.kinds, storages), Recorder(asked)
        lines = portions = objects = bad = 0
        scopes = set[Scope]()
        for where, line in _lines(options.file):
            lines += 1
            if not line.strip():
                continue
            try:
                portion = reader.read(line)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                bad += 1
                if bad <= _MOST_SAID:
                    drawing.complain(f"{where}: it cannot be used: {shown(_said(error))}")
                continue
            if portion is None or options.storage not in (None, portion.scope.storage):
                continue
            portions += 1
            objects += len(portion.made) + len(portion.digests)
            if portion.scope not in scopes:
                scopes.add(portion.scope)
                if not options.dry_run:  # from then on it is known who has something there
                    await asked.store.begin(portion.scope, recorded=None)
            if not options.dry_run:
                await recorder.take(portion)
        await recorder.finish()
        for scope in () if options.dry_run else sorted(scopes, key=str):
            await asked.store.begin(scope, recorded=None, acknowledged=True)
        drawing.say(
            f"{lines:,} lines; {portions:,} of them name {objects:,} objects of {len(scopes):,} tenants, "
            + (
                "and nothing was changed."
                if options.dry_run
                else f"{recorder.new:,} of which were not known."
            )
        )
        if recorder.others:
            drawing.remark(
                f"{recorder.others:,} of them are another tenant's by now, and stay so; `gateway objects adopt --from` "
                "would change that"
            )
        strangers = sorted({scope.tenant for scope in scopes} - set(asked.policies))
        if strangers:
            drawing.remark(f"the configuration has no such tenant: {listed(map(shown, strangers))}")
        if bad:
            drawing.complain(f"{bad:,} lines could not be used")
        return 1 if bad else 0

    return answered(options, work)


def _lines(files: Sequence[Path]) -> Iterator[tuple[str, bytes]]:
    """Each line, and where it stands. Raises OSError."""
    if not files:
        for number, line in enumerate(lines_of_input("lines of an export, or of the log").buffer, 1):
            yield f"line {number:,}", line
    for path in files:
        with path.open("rb") as file:
            is_compressed = file.peek(2)[:2] == _GZIP
            try:
                for number, line in enumerate(gzip.GzipFile(fileobj=file) if is_compressed else file, 1):
                    yield f"{path}, line {number:,}", line
            except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                raise OSError(f"{path}: it is cut off or damaged: {error}") from None


def _scope(document: dict[str, Any]) -> Scope:
    tenant, storage = document["tenant"], document["storage"]
    if not (isinstance(tenant, str) and isinstance(storage, str)):
        raise ValueError("whose they are is no text")
    return Scope(storage, tenant)


def _made(kind: str, name: object, created: float) -> Made:
    if not isinstance(name, str) or not is_id(name):
        raise ValueError("an id is none")
    return Made(kind, name, created)


def _digest(text: str) -> bytes:
    digest = bytes.fromhex(text)
    if len(digest) != DIGEST_BYTES:
        raise ValueError("a digest is none")
    return digest


def _said(error: BaseException) -> str:
    return f"there is no {error}" if isinstance(error, KeyError) else str(error)
