"""The locks name all packages of their lanes with hashes, and the installed packages match their lock."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from functools import cache
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from test.pages import ROOT

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")

LOCKS = ROOT / "locks"
PYTHONS = ("3.10.9", "3.11.9", "3.12.9", "3.13.9")
HASHED = re.compile(r"([a-z0-9-]+==[a-z0-9.]+)( ; [^\\]+)?((?: \\\n    --hash=sha256:[0-9a-f]{64})+)\n")
INCLUDED = re.compile(r"-[cr] [a-z]+\.txt\n")


class Lane(NamedTuple):
    """Lock file, extras and Python versions of an environment."""

    lock: str
    extras: tuple[str, ...]
    pythons: tuple[str, ...] = PYTHONS


LANES = (
    Lane("base.txt", ()),
    Lane("all.txt", ("test", "docs", "dev", "bench")),
    Lane("torchtext.txt", ("torchtext", "test"), PYTHONS[:-1]),
    Lane("newest.txt", ("test",), PYTHONS[1:]),
)


@cache
def parse_lock(lock: Path) -> tuple[str, ...]:
    """Split a lock into lines that include another lock, and packages with their hashes."""
    text, found = lock.read_text(encoding="utf-8"), []
    while text:
        part = INCLUDED.match(text) or HASHED.match(text)
        assert part is not None, f"{lock}: {text[:80]!r}"
        found.append(part.group())
        text = text[part.end() :]
    return tuple(found)


def read_locked_versions(lock: str, python: str) -> dict[str, Version]:
    """Return the package versions for Linux on x86-64 in a lock and the locks that it includes."""
    environment = {"python_full_version": python, "implementation_name": "cpython"}
    environment["python_version"] = python.rpartition(".")[0]
    environment |= {"os_name": "posix", "sys_platform": "linux", "platform_machine": "x86_64"}
    found: dict[str, Version] = {}
    for part in parse_lock(LOCKS / lock):
        if part.startswith("-"):
            found |= read_locked_versions(part.split()[1], python)
            continue
        package = Requirement(part.split("\\")[0])
        if package.marker is None or package.marker.evaluate(environment):
            version = Version(str(package.specifier).removeprefix("=="))
            assert found.setdefault(package.name, version) == version, part
    return found


def list_requirements(project: dict[str, Any], extras: tuple[str, ...]) -> list[Requirement]:
    """Return the requirements of the project with these extras, including nested extras."""
    found = [Requirement(text) for text in project["dependencies"]]
    for extra in extras:
        for package in map(Requirement, project["optional-dependencies"][extra]):
            own = package.name == project["name"]
            found += list_requirements(project, tuple(package.extras)) if own else [package]
    return found


@pytest.mark.parametrize("lock", sorted(file.name for file in LOCKS.iterdir() if file.name != "cpu.txt"))
def test_each_locked_package_has_a_version_and_hashes(lock: str) -> None:
    assert any("--hash" in part for part in parse_lock(LOCKS / lock))


@pytest.mark.parametrize(
    "text",
    [
        "torch>=2 \\\n    --hash=sha256:" + "0" * 64 + "\n",
        "torch==2.13.0\n",
        "torch==2.13.0 \\\n    --hash=md5:" + "0" * 32 + "\n",
        "--find-links here\n",
        "torch @ https://example.org/torch.whl \\\n    --hash=sha256:" + "0" * 64 + "\n",
    ],
)
def test_a_line_without_version_or_hash_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text(text, encoding="utf-8")
    with pytest.raises(AssertionError, match=r"x\.txt"):
        parse_lock(tmp_path / "x.txt")


@pytest.mark.parametrize(("lane", "python"), [(lane, python) for lane in LANES for python in lane.pythons])
def test_a_lock_satisfies_the_requirements_of_pyproject(lane: Lane, python: str) -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    have = read_locked_versions(lane.lock, python)
    for package in [
        *list_requirements(settings["project"], lane.extras),
        *map(Requirement, settings["build-system"]["requires"]),
    ]:
        if package.marker is None or package.marker.evaluate({"python_version": python.rpartition(".")[0]}):
            assert package.specifier.contains(have[canonicalize_name(package.name)]), (str(package), have)


def test_the_cpu_build_of_torch_has_the_locked_version() -> None:
    [line] = [line for line in (LOCKS / "cpu.txt").read_text(encoding="utf-8").splitlines() if line[0] != "#"]
    [pin] = Requirement(line).specifier
    assert pin.contains(Version(f"{read_locked_versions('base.txt', '3.11.9')['torch']}+cpu"))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torchtext") is not None, reason="another lock")
def test_installed_versions_match_the_lock() -> None:
    """Check the environment of the README's second command."""
    python = platform.python_version()
    installed: dict[str, Version] = {
        canonicalize_name(found.metadata["Name"]): Version(found.version) for found in distributions()
    }
    need = read_locked_versions("all.txt", python) | read_locked_versions("pip.txt", python)
    if not torch.version.cuda:
        need = {name: version for name, version in need.items() if name not in read_locked_versions("cuda.txt", python)}
    assert {name: Version(installed[name].public) for name in need} == need


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info < (3, 11), reason="the newest PyTorch needs Python 3.11")
def test_pip_accepts_the_lock_that_ci_does_not_install() -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
    environment = {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
    subprocess.run([*command, "--require-hashes", "-r", str(LOCKS / "newest.txt")], check=True, env=environment)
