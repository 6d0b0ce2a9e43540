"""The newest signing key signs, every key verifies, and the files are whole and private."""

import base64
import os
import stat
import threading
from pathlib import Path

import orjson
import pytest

from gateway.credentials.key_ring import KeyRing, add, ensure_ring, fingerprint, retire, rotate, save
from gateway.credentials.keys import Algorithm, Key, KeyProblem, KeyState


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def state_of(directory: Path, kid: str) -> object:
    return orjson.loads((directory / f"{kid}.json").read_bytes())["gw_state"]


def new_key(kid: str, created_at: int = 1, algorithm: Algorithm = Algorithm.EDDSA) -> Key:
    return Key.generate(algorithm, kid, clock=lambda: created_at)


def public(key: Key) -> Key:
    jwk = key.public_jwk()
    assert jwk is not None
    return Key.from_jwk(jwk)


# The ring.


def test_newest_signing_key_signs() -> None:
    old, new = new_key("z-old", 1), new_key("a-new", 2)
    for keys in ([old, new], [new, old]):
        ring = KeyRing(keys)
        assert ring.signing_key is new
        assert list(ring) == [old, new]


def test_public_and_verifying_keys_do_not_sign_however_new() -> None:
    signing = new_key("a", 1)
    verifying = Key.from_jwk({**new_key("b", 2).jwk(), "gw_state": KeyState.VERIFYING})
    ring = KeyRing([signing, verifying, public(new_key("c", 3))])
    assert ring.signing_key is signing
    assert KeyRing([verifying]).signing_key is None


def test_key_is_found_by_its_exact_kid_only() -> None:
    key = new_key("a.b")
    ring = KeyRing([key])
    assert ring.get("a.b") is key
    assert [ring.get(kid) for kid in ("A.B", "a", "", "./a.b", "a.b.json")] == [None] * 5


def test_two_keys_of_one_kid_are_refused() -> None:
    with pytest.raises(KeyProblem, match="same kid"):
        KeyRing([new_key("a"), new_key("a")])


def test_hmac_secret_that_is_the_public_part_of_another_key_is_refused() -> None:
    asymmetric = new_key("a")
    x = str(asymmetric.jwk()["x"])
    confused = Key.from_jwk({"kty": "oct", "k": x, "kid": "h", "alg": "HS256"})
    with pytest.raises(KeyProblem, match="public part of another key"):
        KeyRing([asymmetric, confused])


def test_published_set_holds_public_parts_only() -> None:
    keys = [new_key(algorithm, algorithm=algorithm) for algorithm in Algorithm]
    published = orjson.dumps(KeyRing(keys).public_jwks())
    listed = orjson.loads(published)["keys"]
    assert {jwk["kid"] for jwk in listed} == {"EdDSA", "ES256", "RS256"}
    assert all(jwk["alg"] == jwk["kid"] and jwk["use"] == "sig" for jwk in listed)
    for key in keys:
        secret = [
            str(value) for name, value in key.jwk().items() if name in ("d", "p", "q", "dp", "dq", "qi", "k")
        ]
        assert secret and not [value for value in secret if value.encode() in published]


def test_ephemeral_ring_signs() -> None:
    ring = KeyRing.ephemeral()
    assert len(ring) == 1
    assert ring.signing_key is not None and ring.signing_key.algorithm is Algorithm.EDDSA


# The directory.


def test_first_run_makes_a_private_directory_with_one_key(tmp_path: Path) -> None:
    directory = tmp_path / "config" / "keys"
    ring, created = ensure_ring(directory)
    assert created and ring.signing_key is not None
    assert ring.signing_key.algorithm is Algorithm.EDDSA
    assert ring.warnings == ()
    assert mode_of(directory) == 0o700
    assert [path.name for path in directory.iterdir()] == [f"{ring.signing_key.kid}.json"]
    assert mode_of(next(directory.iterdir())) == 0o600


def test_second_run_keeps_the_key(tmp_path: Path) -> None:
    first, _ = ensure_ring(tmp_path / "keys")
    second, created = ensure_ring(tmp_path / "keys")
    assert not created
    assert [key.jwk() for key in second] == [key.jwk() for key in first]


def test_first_run_adds_no_key_to_a_directory_of_public_keys(tmp_path: Path) -> None:
    save(tmp_path, public(new_key("a")))
    ring, created = ensure_ring(tmp_path)
    assert (created, len(ring), ring.signing_key) == (False, 1, None)


def test_first_run_says_that_there_is_no_key_where_none_can_be_made(tmp_path: Path) -> None:
    """As with a secret that is mounted and empty."""
    (tmp_path / "file").touch()
    with pytest.raises(KeyProblem, match=f"{tmp_path}/file/keys holds no key, and none can be made there: "):
        ensure_ring(tmp_path / "file" / "keys")


def test_first_run_never_replaces_a_key_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"{")
    with pytest.raises(KeyProblem):
        ensure_ring(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize("algorithm", Algorithm)
def test_saved_key_is_loaded(tmp_path: Path, algorithm: Algorithm) -> None:
    key = new_key("k", 7, algorithm)
    assert save(tmp_path, key) == tmp_path / "k.json"
    loaded = KeyRing.load(tmp_path).get("k")
    assert loaded is not None and loaded.jwk() == key.jwk()


def test_key_of_another_tool_signs_without_our_members(tmp_path: Path) -> None:
    jwk = {name: value for name, value in new_key("k").jwk().items() if not name.startswith("gw_")}
    (tmp_path / "k.json").write_bytes(orjson.dumps(jwk))
    (tmp_path / "k.json").chmod(0o600)
    ring = KeyRing.load(tmp_path)
    assert ring.signing_key is not None and ring.signing_key.kid == "k"


def test_other_files_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    save(tmp_path, new_key("k"))
    (tmp_path / "README").write_text("hello")
    (tmp_path / ".k.json.draft").write_text("{")
    assert len(KeyRing.load(tmp_path)) == 1


def test_missing_directory_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(KeyProblem, match="No such file"):
        KeyRing.load(tmp_path / "nowhere")


def test_every_bad_file_is_named_at_once_and_no_secret_is(tmp_path: Path) -> None:
    good, hmac = new_key("good"), new_key("hmac", algorithm=Algorithm.HS256)
    save(tmp_path, good)
    secret = str(hmac.jwk()["k"])
    bad = {
        "renamed.json": (orjson.dumps(good.jwk()), "must be named good.json"),
        "twice.json": (orjson.dumps(hmac.jwk())[:-1] + b',"alg":"EdDSA"}', "distinct members"),
        "huge.json": (
            orjson.dumps({**new_key("huge").jwk(), "note": "a" * 40_000}),
            "larger than 32768 bytes",
        ),
        "list.json": (b"[]", "not a JSON object"),
        "weak.json": (b'{"kty":"oct","alg":"HS256","kid":"weak","k":"AAAA"}', "at least 32 bytes"),
        "text.json": (secret.encode(), "not a JSON object"),
    }
    for name, (content, _) in bad.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(KeyProblem) as refused:
        KeyRing.load(tmp_path)
    assert len(refused.value.problems) == len(bad) + 1
    for name, reason in [(name, reason) for name, (_, reason) in bad.items()] + [
        ("folder.json", "regular file")
    ]:
        assert any(f"{name}: " in problem and reason in problem for problem in refused.value.problems)
    assert secret not in str(refused.value) and "good.json:" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "mode", "remedy"),
    [
        ("private.json", 0o604, "chmod o-rwx {path}"),
        ("private.json", 0o602, "chmod o-w {path}"),
        ("public.json", 0o646, "chmod o-w {path}"),
        ("revocations.json", 0o604, "chmod o-rwx {path}"),
        ("revocations.json", 0o602, "chmod o-w {path}"),
        ("", 0o757, "chmod o-w {path}"),
    ],
)
def test_what_strangers_can_read_or_write_is_refused_with_what_to_do(
    tmp_path: Path, name: str, mode: int, remedy: str
) -> None:
    directory = tmp_path / "keys"
    save(directory, new_key("private"))
    save(directory, public(new_key("public")))
    (directory / "revocations.json").write_text('{"revocations": []}')
    (directory / "revocations.json").chmod(0o600)
    (directory / "public.json").chmod(0o644)
    directory.chmod(0o755)
    assert len(KeyRing.load(directory)) == 2

    path = directory / name
    path.chmod(mode)

    with pytest.raises(KeyProblem) as refused:
        KeyRing.load(directory)
    [problem] = refused.value.problems
    assert problem.endswith(remedy.format(path=path))


def kubernetes(folder: Path, *keys: Key, version: str, group: int) -> None:
    """Mount keys as Kubernetes does: links to links to files that a group may read; replaces what was mounted."""
    files = folder / f"..{version}"
    files.mkdir(parents=True)
    for key in keys:
        file = files / f"{key.kid}.json"
        file.write_bytes(orjson.dumps(key.jwk()))
        os.chown(file, -1, group)
        file.chmod(0o440)
        if not (folder / file.name).is_symlink():
            (folder / file.name).symlink_to(f"..data/{file.name}")
    (folder / "..data_tmp").symlink_to(f"..{version}")
    (folder / "..data_tmp").replace(folder / "..data")
    for folders in (folder, files):
        os.chown(folders, -1, group)
        folders.chmod(0o2750)


def test_kubernetes_mounts_are_sound_for_the_group_they_are_mounted_for(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    kubernetes(directory, new_key("k", 1), version="2026_01", group=os.getegid())
    before = fingerprint(directory)
    assert [key.created_at for key in KeyRing.load(directory)] == [1]

    kubernetes(directory, new_key("k", 2), version="2026_02", group=os.getegid())

    assert fingerprint(directory) != before
    assert [key.created_at for key in KeyRing.load(directory)] == [2]
    (directory / "..2026_02").chmod(0o777)
    with pytest.raises(KeyProblem, match="chmod o-w"):
        KeyRing.load(directory)


def test_another_groups_reading_and_another_users_file_are_refused(tmp_path: Path) -> None:
    directory = tmp_path / "keys"
    save(directory, new_key("k"))
    if os.geteuid() != 0:
        return  # only root can give a file away
    os.chown(directory / "k.json", -1, 54321)
    assert len(KeyRing.load(directory)) == 1
    (directory / "k.json").chmod(0o640)
    with pytest.raises(KeyProblem, match="chmod g-rwx"):
        KeyRing.load(directory)
    (directory / "k.json").chmod(0o600)
    os.chown(directory / "k.json", 54321, -1)
    with pytest.raises(KeyProblem, match="belongs to another user"):
        KeyRing.load(directory)
    os.chown(directory, 54321, -1)
    assert len(KeyRing.load(directory)) == 1, "root may look after somebody else's keys"


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "elsewhere", new_key("k"))
    (tmp_path / "keys").mkdir(mode=0o700)
    (tmp_path / "keys" / "k.json").symlink_to(tmp_path / "elsewhere" / "k.json")

    with pytest.raises(KeyProblem, match="leads out of"):
        KeyRing.load(tmp_path / "keys")


def test_saving_narrows_the_mode_of_an_open_file(tmp_path: Path) -> None:
    key = new_key("k")
    (tmp_path / "k.json").write_text("old")
    (tmp_path / "k.json").chmod(0o666)
    save(tmp_path, key)
    assert mode_of(tmp_path / "k.json") == 0o600


def test_failed_save_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "k.json").mkdir()
    with pytest.raises(KeyProblem):
        save(tmp_path, new_key("k"))
    assert [path.name for path in tmp_path.iterdir()] == ["k.json"]


def test_directory_that_cannot_be_made_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyProblem):
        save(tmp_path / "file" / "keys", new_key("k"))


def test_reader_never_sees_half_a_key_file(tmp_path: Path) -> None:
    keys = [new_key("k", algorithm=Algorithm.ES256), new_key("k", algorithm=Algorithm.HS256)]
    save(tmp_path, keys[0])
    problems: list[KeyProblem] = []
    loads = 0
    done = threading.Event()

    def read() -> None:
        nonlocal loads
        while not done.is_set():
            try:
                KeyRing.load(tmp_path)
            except KeyProblem as problem:
                problems.append(problem)
            loads += 1

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    for turn in range(100):
        save(tmp_path, keys[turn % 2])
    done.set()
    reader.join()
    assert loads > 0 and not problems


def test_key_that_exists_is_not_added_again(tmp_path: Path) -> None:
    key = new_key("k")
    add(tmp_path, key)
    with pytest.raises(KeyProblem, match="exists"):
        add(tmp_path, new_key("k"))
    loaded = KeyRing.load(tmp_path).get("k")
    assert loaded is not None and loaded.jwk() == key.jwk()


# Rotation.


def test_after_rotation_the_new_key_signs_and_the_old_still_verifies(tmp_path: Path) -> None:
    ring, _ = ensure_ring(tmp_path)
    old = ring.signing_key
    assert old is not None
    new = rotate(tmp_path)
    ring = KeyRing.load(tmp_path)
    assert ring.signing_key is not None and ring.signing_key.kid == new.kid != old.kid
    kept = ring.get(old.kid)
    assert kept is not None and kept.verifies(b"data", old.sign(b"data"))
    assert (state_of(tmp_path, old.kid), state_of(tmp_path, new.kid)) == ("verifying", "signing")
    assert mode_of(tmp_path / f"{old.kid}.json") == 0o600


def test_rotation_keeps_the_algorithm_unless_told_otherwise(tmp_path: Path) -> None:
    save(tmp_path, new_key("first", algorithm=Algorithm.ES256))
    assert rotate(tmp_path).algorithm is Algorithm.ES256
    assert rotate(tmp_path, Algorithm.RS256, kid="rsa").algorithm is Algorithm.RS256
    signing = KeyRing.load(tmp_path).signing_key
    assert signing is not None and signing.kid == "rsa"


def test_rotation_wins_over_a_key_from_the_future(tmp_path: Path) -> None:
    save(tmp_path, new_key("future", 4_000_000_000))
    new = rotate(tmp_path)
    (tmp_path / "future.json").write_bytes(orjson.dumps(new_key("future", 4_000_000_000).jwk()))
    signing = KeyRing.load(tmp_path).signing_key
    assert signing is not None and signing.kid == new.kid


def test_rotation_to_a_kid_that_exists_changes_nothing(tmp_path: Path) -> None:
    save(tmp_path, new_key("k"))
    before = (tmp_path / "k.json").read_bytes()
    with pytest.raises(KeyProblem, match="exists"):
        rotate(tmp_path, kid="k")
    assert (tmp_path / "k.json").read_bytes() == before


def test_rotation_of_an_empty_directory_makes_the_first_key(tmp_path: Path) -> None:
    new = rotate(tmp_path)
    signing = KeyRing.load(tmp_path).signing_key
    assert signing is not None and signing.kid == new.kid


def test_retired_key_is_gone(tmp_path: Path) -> None:
    save(tmp_path, new_key("old"))
    new = rotate(tmp_path)
    retire(tmp_path, "old")
    assert [path.name for path in tmp_path.iterdir()] == [f"{new.kid}.json"]
    assert KeyRing.load(tmp_path).get("old") is None


def test_key_that_signs_is_not_retired(tmp_path: Path) -> None:
    save(tmp_path, new_key("k"))
    with pytest.raises(KeyProblem, match="rotate first"):
        retire(tmp_path, "k")
    assert (tmp_path / "k.json").exists()


@pytest.mark.parametrize("kid", ["nobody", "../outside", "", "k.json"])
def test_only_a_key_of_the_directory_is_retired(tmp_path: Path, kid: str) -> None:
    directory = tmp_path / "keys"
    save(directory, new_key("k"))
    outside = save(tmp_path, new_key("outside"))
    with pytest.raises(KeyProblem, match="no such key"):
        retire(directory, kid)
    assert outside.exists()


def test_secret_is_canonical_base64url_in_its_file(tmp_path: Path) -> None:
    key = new_key("k", algorithm=Algorithm.HS256)
    jwk = orjson.loads(save(tmp_path, key).read_bytes())
    assert len(base64.urlsafe_b64decode(jwk["k"] + "=")) == 32
    assert (jwk["kid"], jwk["alg"], jwk["use"], jwk["gw_created_at"]) == ("k", "HS256", "sig", 1)
