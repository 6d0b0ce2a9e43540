"""What the process may use, as its machine, its container and its limits say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.app.machine import container_seen, machine_memory_bytes, usable_cores

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
V1 = "memory/memory.limit_in_bytes"


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {"memory.max": "67108864\n"}, 67108864),
        ("0::/\n", {"memory.max": "max\n"}, MACHINE),
        ("0::/\n", {}, MACHINE),
        ("", {}, MACHINE),
        ("0::/system.slice/gateway.service\n", {"system.slice/gateway.service/memory.max": "3000\n"}, 3000),
        (
            "0::/system.slice/gateway.service\n",
            {"system.slice/gateway.service/memory.max": "max\n", "system.slice/memory.max": "2000\n"},
            2000,
        ),
        ("5:cpu,cpuacct:/x\n4:memory:/docker/abc\n", {f"memory/docker/abc/{V1[7:]}": "5000\n"}, 5000),
        ("4:memory:/docker/abc\n", {V1: "6000\n"}, 6000),
        ("4:memory:/docker/abc\n", {V1: "9223372036854771712\n"}, MACHINE),
        ("4:hugetlb:/x\n", {V1: "6000\n"}, MACHINE),
    ],
)
def test_memory_is_the_least_of_machine_and_control_groups(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int
) -> None:
    machine_with(tmp_path, groups, files)
    assert machine_memory_bytes(tmp_path) == expected


def test_memory_is_known_of_this_process() -> None:
    assert 0 < machine_memory_bytes() <= MACHINE


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/\n", {}, 4),
        ("", {}, 4),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "290000 100000\n"}, 2),  # what exceeds two would be stopped in each period
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 4),
        ("0::/\n", {"cpu.max": "100000 0\n"}, 4),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ("0::/a/b\n", {"a/b/cpu.max": "100000 50000\n", "a/cpu.max": "300000 100000\n"}, 2),
        (
            "4:cpu,cpuacct:/docker/abc\n",
            {"cpu/docker/abc/cpu.cfs_quota_us": "150000\n", "cpu/docker/abc/cpu.cfs_period_us": "50000\n"},
            3,
        ),
        ("4:cpu:/docker/abc\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4),
        ("4:cpuset:/\n0::/\n", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 4),
    ],
)
def test_cores_are_those_it_may_run_on_or_what_quotas_leave_of_them(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int
) -> None:
    machine_with(tmp_path, groups, files)
    assert usable_cores(tmp_path, may_run_on=4) == expected


def test_cores_are_known_of_this_process() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("groups", "files", "environ"),
    [
        ("", {}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}),
        ("", {}, {"container": "podman"}),
        ("", {".dockerenv": ""}, {}),
        ("", {"run/.containerenv": ""}, {}),
        ("", {"run/systemd/container": "lxc"}, {}),
        ("4:memory:/docker/0123\n", {}, {}),
        ("0::/system.slice/docker-0123456789abcdef.scope\n", {}, {}),
        ("0::/kubepods.slice/kubepods-burstable.slice/x\n", {}, {}),
        ("0::/machine.slice/libpod-0123.scope/container\n", {}, {}),
        ("0::/lxc.payload.web/x\n", {}, {}),
    ],
)
def test_a_container_is_seen(
    tmp_path: Path, groups: str, files: dict[str, str], environ: dict[str, str]
) -> None:
    machine_with(tmp_path, groups, {f"../../../{name}": text for name, text in files.items()})
    assert container_seen(tmp_path, environ) is not None


def test_process_ids_of_its_own_show_a_container(tmp_path: Path) -> None:
    machine_with(tmp_path, "0::/\n", {})
    (tmp_path / "proc/self/ns").mkdir()
    (tmp_path / "proc/self/ns/pid").symlink_to("pid:[4026532000]")
    assert container_seen(tmp_path, {}) is not None


@pytest.mark.parametrize(
    "groups",
    [
        "",
        "0::/\n",
        "0::/system.slice/gateway.service\n",
        "0::/system.slice/docker.service\n",
        "0::/user.slice/user-1000.slice/session-1.scope\n",
    ],
)
def test_no_container_is_seen_on_a_machine(tmp_path: Path, groups: str) -> None:
    machine_with(tmp_path, groups, {})
    (tmp_path / "proc/self/ns").mkdir()
    (tmp_path / "proc/self/ns/pid").symlink_to("pid:[4026531836]")
    assert container_seen(tmp_path, {"container": "", "HOME": "/root"}) is None


def machine_with(root: Path, groups: str, files: dict[str, str]) -> None:
    """Have a machine under `root` whose process is in these groups, and whose groups have these files."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    (root / "sys/fs/cgroup").mkdir(parents=True)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
