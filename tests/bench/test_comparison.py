"""Candidates of `tests.benchmarks.compare` are given configurations that they take, and all the same job."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import jwt
import pytest

from gateway.bench.certificate import make_certificate
from gateway.bench.upstream import RawUpstream
from gateway.bench.works import Requests, Target
from tests.benchmarks.compare import setting
from tests.benchmarks.compare.__main__ import Plan
from tests.benchmarks.compare.candidates import (
    CACHING_ENVOY,
    CANDIDATES,
    DIRECT,
    ENVOY,
    FLOOR,
    GATEWAY,
    HAPROXY,
    NGINX,
    UNLIMITED,
    Candidate,
)
from tests.benchmarks.compare.machine import Cores, Moment
from tests.benchmarks.compare.running import configure, filled, headers, running, words
from tests.benchmarks.compare.works import WORKS, Bench
from tests.kit.redis import free_port

PEERS = Path("build/peers")
CHECKS: Mapping[str, tuple[str, ...]] = {
    NGINX.name: ("-t", "-c", "@DIRECTORY@/nginx.conf"),
    HAPROXY.name: ("-c", "-f", "@DIRECTORY@/haproxy.cfg"),
    ENVOY.name: ("--mode", "validate", "-c", "@DIRECTORY@/envoy.yaml"),
    CACHING_ENVOY.name: ("--mode", "validate", "-c", "@DIRECTORY@/envoy-cached.yaml"),
    GATEWAY.name: ("check", "--config", "@DIRECTORY@/gateway.toml"),
    UNLIMITED.name: ("check", "--config", "@DIRECTORY@/unlimited.toml"),
}
"""How each is asked whether it would start."""

INSTALLED = [name for name in CHECKS if CANDIDATES[name].find(PEERS)]


def given(directory: Path, *, tls: bool = False, credentials: int = 1) -> setting.Setting:
    make_certificate(directory)
    return setting.Setting(
        directory,
        free_port(),
        free_port(),
        tls,
        "redis://127.0.0.1:6379/0",
        1,
        setting.callers(credentials),
        (setting.credential("rival", "subject-0"), "rival"),
    )


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("credentials", [1, 1000])
@pytest.mark.parametrize("name", INSTALLED)
def test_who_is_installed_takes_its_configuration(
    name: str, credentials: int, tls: bool, tmp_path: Path
) -> None:
    candidate = CANDIDATES[name]
    known = configure(candidate, given(tmp_path, tls=tls, credentials=credentials), free_port())
    command = candidate.find(PEERS)
    assert command is not None
    done = subprocess.run(
        [*command, *(filled(word, known) for word in CHECKS[name])],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("candidate", CANDIDATES.values(), ids=list(CANDIDATES))
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_nothing_is_left_to_fill_in(candidate: Candidate, tls: bool, tmp_path: Path) -> None:
    known = configure(candidate, given(tmp_path, tls=tls), free_port())
    texts = [(tmp_path / file).read_text() for _, file in candidate.templates]
    texts += [filled(word, known) for word in (*candidate.arguments, *(candidate.environment or {}).values())]
    texts += [value for _, value in headers(candidate, given(tmp_path))]
    assert not [left for text in texts for left in re.findall("@[A-Z_]+@", text)]


@pytest.mark.parametrize("candidate", CANDIDATES.values(), ids=list(CANDIDATES))
def test_who_is_not_installed_can_be_told_how(candidate: Candidate, tmp_path: Path) -> None:
    assert candidate.install or candidate.find(tmp_path) is not None


def test_by_tls_everybody_asks_the_upstream_that_speaks_it(tmp_path: Path) -> None:
    by_tls = given(tmp_path, tls=True)
    for candidate in CANDIDATES.values():
        if candidate is DIRECT:
            continue
        known = configure(candidate, by_tls, free_port())
        texts = [
            (tmp_path / file).read_text() for _, file in candidate.templates if file.endswith(("g", "l", "f"))
        ]
        texts += [filled(word, known) for word in candidate.arguments]
        texts += [value for _, value in headers(candidate, by_tls)]
        said = "\n".join(texts)
        assert str(by_tls.tls_port) in said and str(by_tls.plain_port) not in said, candidate.name


def test_a_credential_says_what_the_gateway_envoy_and_haproxy_check() -> None:
    claims = jwt.decode(
        setting.credential("acme", "alice"),
        setting.SECRET,
        ["HS256"],
        audience=setting.AUDIENCE,
        issuer=setting.ISSUER,
    )
    assert (claims["tenant"], claims["sub"]) == ("acme", "alice")
    assert claims["exp"] > time.time() + 3600


def test_a_thousand_credentials_are_of_two_hundred_tenants_in_turn() -> None:
    callers = setting.callers(1000)
    tenants = [tenant for _, tenant in callers]
    assert len({credential for credential, _ in callers}) == 1000
    assert set(Counter(tenants).values()) == {5} and len(set(tenants)) == 200
    assert all(one != next_ for one, next_ in pairwise(tenants))


def test_limits_of_the_gateway_are_those_of_every_tenant_or_of_none(tmp_path: Path) -> None:
    ten = given(tmp_path, credentials=50)
    assert words(GATEWAY, ten, 1)["LIMITS"].count("max_tokens_per_1_minute") == 11  # with the rival
    assert "redis_url" in words(GATEWAY, ten, 1)["REDIS"]
    without = words(UNLIMITED, ten, 1)
    assert "limits." not in without["LIMITS"] and without["LIMITS"].count("[tenants.") == 11
    assert not without["REDIS"]


@pytest.mark.parametrize("candidate", [FLOOR, GATEWAY, UNLIMITED], ids=lambda candidate: candidate.name)
async def test_a_candidate_passes_what_it_is_asked_and_ends_with_all_that_it_started(
    candidate: Candidate, tmp_path: Path
) -> None:
    server = await RawUpstream().listen(0)
    place = replace(given(tmp_path), plain_port=server.sockets[0].getsockname()[1])
    cores = os.sched_getaffinity(0)
    with running(candidate, place, PEERS, cores) as it:
        assert it.pid is not None and os.sched_getaffinity(it.pid) == cores
        outcomes = await Bench(place, Cores(min(cores), min(cores)), PEERS, 1.0).outcomes(
            Target(port=it.port, credentials=(place.rival[0],)), Requests(count=20, connections=2)
        )
        assert outcomes[0]["ok"] == 20, outcomes
    with pytest.raises(ProcessLookupError):
        os.kill(it.pid, 0)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", it.port)
    server.close()
    lines = [
        line
        for line in (tmp_path / f"{candidate.name}.out").read_text().splitlines()
        if '"status":200' in line
    ]
    assert len(lines) == (0 if candidate is FLOOR else 20)
    assert sum('"usage"' in line for line in lines) == (20 if candidate is GATEWAY else 0)


async def test_who_does_not_start_says_why(tmp_path: Path) -> None:
    cannot = replace(FLOOR, arguments=("no port", "no port"))
    with pytest.raises(RuntimeError, match="ValueError"), running(cannot, given(tmp_path), PEERS, {0}):
        raise AssertionError("it runs")


def test_disturbance_is_what_others_used_and_what_was_stolen_meanwhile() -> None:
    before, after = Moment(4.0, 10, 900), Moment(5.0, 20, 1000)
    assert after.foreign_cpus(before, 2.0) == 0.5
    assert after.steal(before) == 0.1
    assert Moment.now().foreign_cpus(Moment.now(), 1.0) >= 0


def test_a_process_beside_another_has_files_of_its_own_and_one_caller(tmp_path: Path) -> None:
    place = given(tmp_path, tls=True, credentials=50)
    apart = place.apart("fresh")
    configure(NGINX, place, 1111)
    configure(NGINX, apart, 2222)
    assert "127.0.0.1:1111" in (tmp_path / "nginx.conf").read_text()
    assert str(tmp_path / "fresh" / "nginx.pid") in (tmp_path / "fresh" / "nginx.conf").read_text()
    assert apart.certificate.read_bytes() == place.certificate.read_bytes()
    assert len(apart.tenants) == 2  # with the rival


# Rounds


def plan(*, peer_rounds: int = 3) -> Plan:
    return Plan(list(CANDIDATES.values()), list(WORKS), 3, peer_rounds, 0.0, False, ENVOY.name, "a run")


def test_every_other_round_goes_the_other_way_round() -> None:
    first, second, third = ([c.name for c, _ in plan().cells("upload", n, 1)] for n in range(3))
    assert first == third == list(reversed(second))
    assert len(first) > 5


def test_who_cannot_do_a_work_is_not_asked_for_it() -> None:
    assert "litellm" not in [c.name for c, _ in plan().cells("upload", 0, 1)]
    assert DIRECT.name not in [c.name for c, _ in plan().cells("fresh", 0, 1)]
    assert [work for work in WORKS if UNLIMITED in [c for c, _ in plan().cells(work, 0, 1)]] == ["json"]


def test_many_credentials_come_right_after_one_of_the_same_candidate() -> None:
    asked = [(c.name, variant) for c, variant in plan().cells("json", 0, 1000)]
    for name in (GATEWAY.name, ENVOY.name):
        at = asked.index((name, ""))
        assert asked[at + 1] == (name, "callers")
    assert sum(variant == "callers" for _, variant in asked) == 2


def test_peers_other_than_the_baseline_may_have_fewer_rounds() -> None:
    names = [{c.name for c, _ in plan(peer_rounds=2).cells("upload", number, 1)} for number in range(3)]
    assert names[0] == names[1] > names[2] == {DIRECT.name, GATEWAY.name, ENVOY.name}


def test_slow_peers_are_measured_in_the_first_round_alone() -> None:
    names = [[c.name for c, _ in plan().cells("json", number, 1)] for number in range(2)]
    assert "litellm" in names[0] and "litellm" not in names[1]
