"""The command finds its library although another package or module is called text."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from text import __version__

ROOT = Path(__file__).parents[1]


def run_python(folder: Path, *arguments: str, path: tuple[Path, ...]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path))}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", ["text/__init__.py", "text/words.py", "text.py"])
def test_the_command_works_next_to_another_package_called_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("raise SystemExit('the text of the user')\n")
    done = run_python(tmp_path, "-m", "dpr_text", "--version", path=(tmp_path, ROOT))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"dpr-text {__version__}\n", "")


def test_another_text_that_was_imported_first_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.py").write_text("")
    code = "import sys, text, dpr_text; sys.exit(dpr_text.main())"
    done = run_python(tmp_path, "-c", code, path=(tmp_path, ROOT))
    assert done.returncode == 4 and len(done.stderr.splitlines()) == 1
    assert str(tmp_path / "text.py") in done.stderr


def test_a_library_that_was_overwritten_is_named(tmp_path: Path) -> None:
    shutil.copy(ROOT / "dpr_text.py", tmp_path)
    (tmp_path / "text").mkdir()
    (tmp_path / "text/__init__.py").write_text("")
    done = run_python(tmp_path, "-S", "-m", "dpr_text", "--version", path=(tmp_path,))
    assert done.returncode == 4 and len(done.stderr.splitlines()) == 1
    assert str(tmp_path / "text") in done.stderr
