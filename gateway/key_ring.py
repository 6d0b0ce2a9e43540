"""The key ring: the keys in force, and the directory that holds them.

One JWK file per key, named `<kid>.json`, mode 0600 in a 0700 directory. Among the keys in state "signing"
that hold private material the newest signs; every key of the directory verifies.
"""

import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import orjson

from gateway.keys import Algorithm, Key, KeyProblem, KeyState
from gateway.strict_json import strict_object

MAX_KEY_FILE_BYTES = 32 * 1024


class KeyRing:
    """The keys in force, by kid. Never changes; a changed directory is loaded into a new ring."""

    __slots__ = ("_keys", "signing_key", "warnings")

    def __init__(self, keys: Iterable[Key], *, warnings: Iterable[str] = ()) -> None:
        """Take the keys; raises KeyProblem for two of one kid and for a secret that others can know."""
        ordered = sorted(keys, key=lambda key: (key.created_at, key.kid))
        self._keys = {key.kid: key for key in ordered}
        if len(self._keys) != len(ordered):
            raise KeyProblem("two keys have the same kid")
        public = {member for key in ordered for member in (key.public_jwk() or {}).values()}
        for key in ordered:
            if key.algorithm is Algorithm.HS256 and key.jwk()["k"] in public:
                raise KeyProblem(f"key {key.kid}: the HMAC secret is the public part of another key")
        self.signing_key: Key | None = next((key for key in reversed(ordered) if key.signs), None)
        self.warnings: tuple[str, ...] = tuple(warnings)

    @classmethod
    def ephemeral(cls, algorithm: str = Algorithm.EDDSA) -> "KeyRing":
        """Make a ring of one new key that exists in memory only."""
        return cls([Key.generate(algorithm)])

    @classmethod
    def load(cls, directory: Path) -> "KeyRing":
        """Read every `*.json` of the directory; raises KeyProblem listing all that is wrong.

        Files open to other users are no error (a mounted secret often is): `warnings` names them.
        """
        keys: list[Key] = []
        problems: list[str] = []
        warnings: list[str] = []
        try:
            warnings += _open_to_others(directory, secret=True)
            for path in sorted(directory.glob("*.json")):
                try:
                    key = _read(path)
                except KeyProblem as problem:
                    problems.append(f"{path}: {problem}")
                    continue
                keys.append(key)
                warnings += _open_to_others(path, secret=key.is_secret)
        except OSError as error:
            raise KeyProblem(f"{error.filename or directory}: {error.strerror}") from None
        if problems:
            raise KeyProblem(*problems)
        return cls(keys, warnings=warnings)

    def __iter__(self) -> Iterator[Key]:
        """Walk the keys, oldest first."""
        return iter(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, kid: str) -> Key | None:
        return self._keys.get(kid)

    def public_jwks(self) -> dict[str, object]:
        """Return the JWK Set for /.well-known/jwks.json: public parts only, HMAC keys left out."""
        return {"keys": [jwk for key in self if (jwk := key.public_jwk()) is not None]}


def save(directory: Path, key: Key) -> Path:
    """Write the key's file, whole or not at all, mode 0600; makes the directory with mode 0700.

    Replaces an earlier file of the same kid. Raises KeyProblem when the place cannot be written.
    """
    path = directory / f"{key.kid}.json"
    draft = directory / f".{key.kid}.{secrets.token_hex(8)}"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(orjson.dumps(key.jwk(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        _sync(directory)
    except OSError as error:
        raise KeyProblem(f"{error.filename or path}: {error.strerror}") from None
    return path


def add(directory: Path, key: Key) -> Path:
    """Save a key whose kid is not taken yet; raises KeyProblem when it is."""
    if (directory / f"{key.kid}.json").exists():
        raise KeyProblem(f"key {key.kid} exists already")
    return save(directory, key)


def rotate(
    directory: Path,
    algorithm: str | None = None,
    *,
    kid: str | None = None,
    clock: Callable[[], float] = time.time,
) -> Key:
    """Let a new key sign from now on; the keys that signed before it only verify.

    Without an algorithm the new key has that of the present signing key. A crash halfway leaves two keys
    in state "signing", of which the newer signs. A gateway accepts what the new key signs once it has loaded
    the directory again.
    """
    ring = KeyRing.load(directory)
    present = ring.signing_key
    if algorithm is None:
        algorithm = Algorithm.EDDSA if present is None else present.algorithm
    key = Key.generate(algorithm, kid, clock=clock)
    if present is not None and key.created_at <= present.created_at:
        key = replace(key, created_at=present.created_at + 1)
    add(directory, key)
    for older in ring:
        if older.signs:
            save(directory, replace(older, state=KeyState.VERIFYING))
    return key


def retire(directory: Path, kid: str) -> None:
    """Delete a key: what it signed is no longer accepted. Raises KeyProblem for the key that signs."""
    ring = KeyRing.load(directory)
    if ring.get(kid) is None:
        raise KeyProblem("no such key")
    if ring.signing_key is not None and ring.signing_key.kid == kid:
        raise KeyProblem(f"key {kid} signs; rotate first, then retire it")
    try:
        (directory / f"{kid}.json").unlink()
        _sync(directory)
    except OSError as error:
        raise KeyProblem(f"{error.filename or kid}: {error.strerror}") from None


def ensure_ring(directory: Path, algorithm: str = Algorithm.EDDSA) -> tuple[KeyRing, bool]:
    """Load the ring; when the directory is missing or holds no key, make one first.

    Returns (ring, whether a key was made). A directory of public keys only is left as it is.
    """
    if directory.exists():
        ring = KeyRing.load(directory)
        if len(ring):
            return ring, False
    add(directory, Key.generate(algorithm))
    return KeyRing.load(directory), True


def _read(path: Path) -> Key:
    """Read one key file; raises KeyProblem for its content and OSError for the file."""
    if not path.is_file():
        raise KeyProblem("not a regular file")
    with path.open("rb") as file:
        document = file.read(MAX_KEY_FILE_BYTES + 1)
    if len(document) > MAX_KEY_FILE_BYTES:
        raise KeyProblem(f"larger than {MAX_KEY_FILE_BYTES} bytes")
    try:
        jwk = strict_object(document)
    except ValueError:
        raise KeyProblem("not a JSON object with distinct members") from None
    key = Key.from_jwk(jwk)
    if path.name != f"{key.kid}.json":
        raise KeyProblem(f"the file of key {key.kid} must be named {key.kid}.json")
    return key


def _open_to_others(path: Path, *, secret: bool) -> Iterator[str]:
    """Warn when other users may read a secret, or replace anything."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & (0o077 if secret else 0o022):
        yield f"{path} is open to other users (mode {mode:04o})"


def _sync(directory: Path) -> None:
    """Make a rename or removal in the directory last through a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
