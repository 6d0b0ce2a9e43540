"""How much memory the process may use, as its machine, its container and its limits say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.app.memory_limit import usable_memory_bytes

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
def test_is_the_least_of_machine_and_control_groups(
    tmp_path: Path, groups: str, files: dict[str, str], expected: int
) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        file = tmp_path / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    assert usable_memory_bytes(tmp_path) == expected


def test_is_known_of_this_process() -> None:
    assert 0 < usable_memory_bytes() <= MACHINE
