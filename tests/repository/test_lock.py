"""The locks hold what pyproject.toml asks for, with hashes, and the image is made from what they hold."""

from __future__ import annotations

import fnmatch
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKS = ("requirements.lock", "requirements-test.lock", "requirements-build.lock")
PYTHONS = ("3.11", "3.12", "3.13")


def entries(lock: str) -> list[str]:
    """A lock's requirements, each with its hashes on one line."""
    text = re.sub(r"^\s*#.*\n", "", (ROOT / lock).read_text("utf-8"), flags=re.MULTILINE)
    return text.replace("\\\n", " ").splitlines()


def locked(lock: str, python: str) -> dict[str, str]:
    """What a lock installs on Linux with a version of Python: the version of each package."""
    where = {"python_version": python, "python_full_version": f"{python}.9", "sys_platform": "linux"}
    versions: dict[str, str] = {}
    for entry in entries(lock):
        requirement = Requirement(entry.split("--hash", 1)[0].strip())
        if requirement.marker is None or requirement.marker.evaluate(where):
            versions[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    return versions


def asked(requirements: list[str], python: str) -> list[Requirement]:
    where = {"python_version": python, "sys_platform": "linux"}
    every = [Requirement(requirement) for requirement in requirements]
    return [one for one in every if one.marker is None or one.marker.evaluate(where)]


def assert_satisfied(requirements: list[str], lock: str, python: str) -> None:
    versions = locked(lock, python)
    for requirement in asked(requirements, python):
        version = versions.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} is not in {lock}: bash .ci/lock"
        assert version in requirement.specifier, f"{lock} has {version} for {requirement}: bash .ci/lock"


@pytest.mark.parametrize("python", PYTHONS)
def test_every_direct_dependency_is_locked_within_its_range(python: str) -> None:
    dependencies = PROJECT["project"]["dependencies"]
    tests = PROJECT["project"]["optional-dependencies"]["test"]
    assert_satisfied(dependencies, "requirements.lock", python)
    assert_satisfied(dependencies + tests, "requirements-test.lock", python)
    assert_satisfied(PROJECT["build-system"]["requires"], "requirements-build.lock", python)


@pytest.mark.parametrize("python", PYTHONS)
def test_the_image_has_the_versions_that_were_tested(python: str) -> None:
    assert locked("requirements.lock", python).items() <= locked("requirements-test.lock", python).items()


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_version_is_exact_and_hashed(lock: str) -> None:
    assert entries(lock)
    for entry in entries(lock):
        assert re.match(r"[a-z0-9-]+==[^\s*]+( ; [^#]+?)?\s+(--hash=sha256:[0-9a-f]{64}\s*)+$", entry), entry[
            :80
        ]


@pytest.mark.parametrize("lock", LOCKS)
def test_locks_name_no_server(lock: str) -> None:
    text = (ROOT / lock).read_text("utf-8")
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", text)


def test_the_image_copies_what_its_context_holds() -> None:
    rules = [
        line for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line[:1] not in ("", "#")
    ]
    let_through = [rule[1:] for rule in rules if rule.startswith("!")]
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    copies = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    copied = [source for sources in copies for source in sources.split()]
    assert sorted(copied) == sorted(let_through)
    for source in copied:
        assert (ROOT / source).exists()
    for lock in re.findall(r"-r (\S+)", dockerfile):
        assert any(fnmatch.fnmatch(lock, source) for source in copied)
