"""How many workers a machine gets, and whether each has enough."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.app.machine import usable_cores
from gateway.app.place import Place
from gateway.app.workers import body_memory_bytes, narrow, workers_of
from gateway.settings.section import SettingsInvalid
from gateway.settings.settings import Settings
from gateway.settings.sources import load

REDIS = "redis://127.0.0.1:1/0"
MIB = 2**20


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine, not a container, whose quota is two processors."""
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    (tmp_path / "proc/self/ns/pid").symlink_to("pid:[4026531836]")
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("200000 100000\n")
    return tmp_path


def test_there_are_as_many_as_cores_where_redis_counts_and_no_container_is_seen(machine: Path) -> None:
    assert workers_of(set_to(redis_url=REDIS), root=machine, environ={}).count == usable_cores(machine)


def test_there_is_one_without_redis_or_in_a_container(machine: Path) -> None:
    assert workers_of(set_to(), root=machine, environ={}).count == 1
    found = workers_of(set_to(redis_url=REDIS), root=machine, environ={"KUBERNETES_SERVICE_HOST": "10.0.0.1"})
    assert (found.count, "KUBERNETES_SERVICE_HOST" in found.why) == (1, True)


@pytest.mark.parametrize("workers", [1, 3])
def test_what_is_set_counts_whatever_the_machine_is(machine: Path, workers: int) -> None:
    assert workers_of(
        set_to(redis_url=REDIS, workers=workers), root=machine, environ={"container": "x"}
    ).count == (workers)
    assert workers_of(set_to(workers=workers), root=machine, environ={}).count == workers


def test_there_are_no_more_than_leave_each_room_for_the_largest_body(machine: Path) -> None:
    (machine / "sys/fs/cgroup/cpu.max").unlink()
    one = {"body_memory_bytes": 200 * MIB, "body_memory_share": 0.5, "max_json_body_bytes": 64 * MIB}
    assert workers_of(set_to(redis_url=REDIS, edge=one), root=machine, environ={}).count == 1
    many = {**one, "max_json_body_bytes": 1}
    assert workers_of(set_to(redis_url=REDIS, edge=many), root=machine, environ={}).count == usable_cores(
        machine
    )


@pytest.mark.parametrize(
    ("total_mib", "body_mib", "workers", "fits"),
    [
        (256, 64, 2, True),
        (255, 64, 2, False),
        (256, 64, 1, True),
        (100, 64, 1, True),  # what does not fit one process either is not for want of a part
        (100, 64, 2, False),
        (1024, 64, 8, True),
        (1024, 64, 9, False),
    ],
)
def test_a_part_is_narrow_that_refuses_a_body_which_one_process_would_take(
    total_mib: int, body_mib: int, workers: int, fits: bool
) -> None:
    settings = set_to(edge={"body_memory_bytes": total_mib * MIB, "max_json_body_bytes": body_mib * MIB})
    assert (narrow(settings, workers) is None) is fits


def test_of_memory_that_nobody_set_all_workers_have_a_quarter_together(machine: Path) -> None:
    (machine / "sys/fs/cgroup/memory.max").write_text(f"{1024 * MIB}\n")
    parts = [body_memory_bytes(set_to(), Place(index, 3), machine) for index in range(3)]
    assert sum(parts) == 256 * MIB


LIMIT = {"max_requests_per_1_minute": 60}


@pytest.mark.parametrize(
    "limits",
    [
        {"limits": LIMIT},
        {"tenants": {"acme": {"limits": LIMIT}}},
        {"tenants": {"acme": {"enabled": False, "limits": LIMIT}}},
        {"tenants": {"acme": {"limits": {"models": {"gpt-*": LIMIT}}}}},
        {"tenants": {"acme": {"limits": {"subjects": {"*": LIMIT}}}}},
    ],
)
def test_several_are_refused_where_limits_exist_and_redis_does_not(limits: dict[str, object]) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        set_to(workers=2, **limits)
    assert [problem.key for problem in refused.value.problems] == ["workers"]
    assert "redis_url" in str(refused.value)
    assert "workers = 1" in str(refused.value)
    set_to(workers=1, **limits)
    set_to(**limits)
    set_to(workers=2, redis_url=REDIS, **limits)


def test_several_need_no_redis_where_nothing_is_limited() -> None:
    set_to(workers=2, tenants={"acme": {}})


@pytest.mark.parametrize("workers", [0, -1, 513, "many"])
def test_no_number_of_workers_is_refused_by_name(workers: object) -> None:
    with pytest.raises(SettingsInvalid) as refused:
        set_to(workers=workers)
    assert [problem.key for problem in refused.value.problems] == ["workers"]


def set_to(**values: object) -> Settings:
    return load(flags=values, environ={})
