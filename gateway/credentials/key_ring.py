"""The key ring: the keys in force, and the directory that holds them.

One JWK file per key, named `<kid>.json`, mode 0600 in a 0700 directory. Among the keys in state "signing"
that hold private material the newest signs; every key of the directory verifies.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import orjson

from gateway.credentials.keys import Algorithm, Key, KeyProblem, KeyState
from gateway.credentials.private_files import read_at_most, sync, write_private
from gateway.settings.exposure import exposures, folder_exposures
from gateway.wire.strict_json import strict_object

MAX_KEY_FILE_BYTES = 32 * 1024
MAX_KEYS_IN_SET = 100

REVOCATIONS_FILE = "revocations.json"
"""Stands beside the keys and is none; see revocation_file.py."""

Fingerprint = tuple[tuple[object, ...], ...]


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

        That others can read a secret, or write anything, is wrong as well: see exposure.py.
        """
        keys: list[Key] = []
        problems: list[str] = []
        try:
            problems += folder_exposures(directory)
            for path in _key_files(directory):
                try:
                    key = _read(path)
                except KeyProblem as problem:
                    problems.append(f"{path}: {problem}")
                    continue
                keys.append(key)
                dangers = exposures(directory, path, secret=key.is_secret)
                problems += [f"{path}: {danger}" for danger in dangers]
            revocations = directory / REVOCATIONS_FILE
            if revocations.is_file():
                dangers = exposures(directory, revocations, secret=True)
                problems += [f"{revocations}: {danger}" for danger in dangers]
        except FileNotFoundError as error:
            hint = "the first key is made by `gateway keys generate`, or by a start"
            raise KeyProblem(f"{error.filename or directory}: {error.strerror}; {hint}") from None
        except OSError as error:
            raise KeyProblem(f"{error.filename or directory}: {error.strerror}") from None
        if problems:
            raise KeyProblem(*problems)
        return cls(keys)

    @classmethod
    def published(cls, jwk_set: Mapping[str, object], *, secrets_too: bool = False) -> "KeyRing":
        """Take the keys of another issuer's JWK Set that can be used here; `warnings` says why others cannot.

        Raises KeyProblem when none can. A private part never belongs there, an HMAC secret only with
        `secrets_too`. Of two different keys under one kid neither counts: nobody could say which was meant.
        """
        members = jwk_set.get("keys")
        if not isinstance(members, list) or len(members) > MAX_KEYS_IN_SET:
            raise KeyProblem(f'not a JWK Set: "keys" must be a list of at most {MAX_KEYS_IN_SET}')
        found: dict[str, Key] = {}
        ambiguous: set[str] = set()
        warnings: list[str] = []
        for position, jwk in enumerate(members):
            try:
                key = _published_key(jwk, secrets_too=secrets_too)
            except KeyProblem as problem:
                warnings.append(f"keys[{position}]: {problem}")
                continue
            if found.setdefault(key.kid, key).jwk() != key.jwk():
                ambiguous.add(key.kid)
        warnings += [f"key {kid}: there are different keys of this kid" for kid in sorted(ambiguous)]
        usable = [key for kid, key in found.items() if kid not in ambiguous]
        if not usable:
            raise KeyProblem(*(warnings or ["the set has no keys"]))
        return cls(usable, warnings=warnings)

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


def fingerprint(directory: Path) -> Fingerprint | None:
    """Return what changes whenever a key file is added, replaced or removed; None when that cannot be seen."""
    try:
        seen = [(path.name, path.stat()) for path in _key_files(directory)]
    except OSError:
        return None
    return tuple(
        (name, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns) for name, found in seen
    )


def save(directory: Path, key: Key) -> Path:
    """Write the key's file, whole or not at all, mode 0600; makes the directory with mode 0700.

    Replaces an earlier file of the same kid. Raises KeyProblem when the place cannot be written.
    """
    path = directory / f"{key.kid}.json"
    try:
        write_private(path, orjson.dumps(key.jwk(), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    except OSError as error:
        raise KeyProblem(f"{error.filename or path}: {error.strerror}") from None
    return path


def add(directory: Path, key: Key) -> Path:
    """Save a key whose kid is not taken yet; raises KeyProblem when it is."""
    if f"{key.kid}.json" == REVOCATIONS_FILE:
        raise KeyProblem(f"no key can be called {key.kid}: that file holds something else")
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
        raise KeyProblem(f"no such key: {kid[:64]!r}; there are {', '.join(key.kid for key in ring)}")
    if ring.signing_key is not None and ring.signing_key.kid == kid:
        raise KeyProblem(f"key {kid} signs; rotate first, then retire it")
    try:
        (directory / f"{kid}.json").unlink()
        sync(directory)
    except OSError as error:
        raise KeyProblem(f"{error.filename or kid}: {error.strerror}") from None


def ensure_ring(
    directory: Path, algorithm: str = Algorithm.EDDSA, *, before_making: Callable[[], None] = lambda: None
) -> tuple[KeyRing, bool]:
    """Load the ring; when the directory is missing or holds no key, make one first.

    Returns (ring, whether a key was made). A directory of public keys only is left as it is. Whatever `before_making`
    raises keeps a key from being made.
    """
    if directory.exists():
        ring = KeyRing.load(directory)
        if len(ring):
            return ring, False
    before_making()
    try:
        add(directory, Key.generate(algorithm))
    except KeyProblem as problem:
        raise KeyProblem(f"{directory} holds no key, and none can be made there: {problem}") from None
    return KeyRing.load(directory), True


def _key_files(directory: Path) -> list[Path]:
    """List the files that should hold keys; raises OSError, for a directory unseen is not an empty one."""
    names = (path for path in directory.iterdir() if path.name.endswith(".json"))
    return sorted(path for path in names if path.name != REVOCATIONS_FILE)


def _published_key(jwk: object, *, secrets_too: bool) -> Key:
    """Take one key of a set. What is refused for being secret is not even looked at: checking it takes long."""
    if not isinstance(jwk, dict):
        raise KeyProblem("not an object")
    if "d" in jwk:
        raise KeyProblem("its private part is known to others")
    if "k" in jwk and not secrets_too:
        raise KeyProblem("an HMAC secret is not for publishing")
    return Key.from_jwk(jwk, strict=False)


def _read(path: Path) -> Key:
    """Read one key file; raises KeyProblem for its content and OSError for the file."""
    if not path.is_file():
        raise KeyProblem("not a regular file")
    document = read_at_most(path, MAX_KEY_FILE_BYTES)
    if document is None:
        raise KeyProblem(f"larger than {MAX_KEY_FILE_BYTES} bytes")
    try:
        jwk = strict_object(document)
    except ValueError:
        raise KeyProblem("not a JSON object with distinct members") from None
    key = Key.from_jwk(jwk)
    if path.name != f"{key.kid}.json":
        raise KeyProblem(f"the file of key {key.kid} must be named {key.kid}.json")
    return key
