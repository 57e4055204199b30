"""Errors and signals become one line and an exit code."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from text.commands.running import call_command, format_error, get_exit_code
from text.errors import (
    ArtifactError,
    DataError,
    InterruptedRun,
    NonFiniteLossError,
    SettingsWarning,
    UsageError,
)

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1]
WRITES = """
import sys, time
from text.artifacts import atomic_write
from text.commands.running import call_command

def work():
    with atomic_write(sys.argv[1]) as temporary:
        temporary.write_text("half")
        print("ready", flush=True)
        time.sleep(100)

sys.exit(call_command("writer", work))
"""
CLEANS_UP = """
import sys, time
from text.commands.running import call_command

def work():
    try:
        print("ready", flush=True)
        time.sleep(100)
    finally:
        time.sleep(1.1)  # longer than the period in which repeated signals are ignored
        print("cleaning up", flush=True)
        time.sleep(100)

sys.exit(call_command("cleaner", work))
"""
FORKS = """
import os, sys, time
from text.commands.running import call_command

def work():
    worker = os.fork()
    if not worker:
        try:
            print("ready", os.getpid(), flush=True)
            time.sleep(100)
        except KeyboardInterrupt:
            os._exit(7)
    _, status = os.waitpid(worker, 0)
    print(status, flush=True)

sys.exit(call_command("parent", work))
"""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UsageError("a"), 2),
        (ValueError("a"), 2),
        (DataError("a"), 3),
        (ArtifactError("a"), 5),
        (NonFiniteLossError("a"), 6),
        (InterruptedRun("a"), 143),
        (KeyboardInterrupt(), 143),
        (FileNotFoundError(errno.ENOENT, "a"), 2),
        (OSError(errno.ENOSPC, "a"), 4),
        (MemoryError(), 4),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"), 4),
        (RuntimeError("could not create a primitive"), 4),
        (RuntimeError("a"), None),
        (TypeError("a"), None),
    ],
)
def test_exit_codes(error: BaseException, code: int | None) -> None:
    assert get_exit_code(error) == code


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (DataError("no\nend.jsonl:1: \x1b[2J"), r"no\nend.jsonl:1: \x1b[2J"),
        (InterruptedRun("saved a\nb\x07"), r"saved a\nb\x07"),
        (NonFiniteLossError("loss\r"), r"loss\r"),
        (OSError(errno.ENOSPC, "No space left on device", "a\nb\x1b"), r"a\nb\x1b: no space left on device"),
        (OSError(errno.ENOSPC, "No space left on device", b"a"), "a: no space left on device"),
        (OSError(errno.ENOSPC, "No space left on device"), "no space left on device"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", ""), "'': no such file or directory"),
        (FileExistsError("a\nb exists. Give a new file."), r"a\nb exists. Give a new file."),
        (ValueError("a\nb\x9b is wrong"), r"a\nb\x9b is wrong"),
        (RuntimeError("no memory\nException raised from f()"), "no memory"),
        (UnicodeDecodeError("utf-8", b"a\xff", 1, 2, "bad"), "'utf-8' codec can't decode byte 0xff in position 1: bad"),
        (KeyboardInterrupt(), "stopped by SIGINT"),
        (MemoryError("a: too small."), "a: too small."),
    ],
)
def test_an_error_is_one_line_without_control_characters(error: BaseException, line: str) -> None:
    assert format_error(error) == line


@pytest.mark.parametrize(
    "error", [RuntimeError("could not create a primitive\nException raised from f()"), MemoryError()]
)
def test_an_out_of_memory_error_gives_advice(error: BaseException) -> None:
    assert (
        "memory: " in format_error(error) and "--device" in format_error(error) and "raised" not in format_error(error)
    )


@pytest.mark.parametrize("kind", [DataError, OSError, ValueError])
def test_the_error_of_a_data_worker_is_one_line(kind: type[Exception]) -> None:
    error = kind(
        f"Caught {kind.__name__} in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "dpr.py", line 1, in f\ntext.errors.DataError: a.jsonl:1 (byte 0): cut\n'
        "This exception is thrown by __iter__ of MapperIterDataPipe()"
    )
    assert format_error(error) == "a.jsonl:1 (byte 0): cut"


def test_a_bug_is_raised_and_debug_raises_every_error() -> None:
    with pytest.raises(TypeError):
        call_command("p", lambda: len(3))  # pyright: ignore[reportArgumentType]

    def fail() -> None:
        raise DataError("a")

    with pytest.raises(DataError):
        call_command("p", fail, debug=True)
    assert call_command("p", fail) == 3


def test_warnings_and_output_have_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    def warn() -> None:
        warnings.warn("a\x1b[2J\nb", SettingsWarning, stacklevel=1)
        print("c\x1b]0;x\x07\te")

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert call_command("p", warn) == 0
    assert capsys.readouterr() == ("c\\x1b]0;x\\x07\te\n", "p: warning: a\\x1b[2J\\nb\n")


def read_until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith(word)
    return line


def reset_signals() -> None:
    """Reset signal handlers in a child process, in case the tests run in the background or under nohup."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_DFL)


@contextmanager
def start(code: str, *arguments: str, **options: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", code, *arguments]
    options.setdefault("preexec_fn", reset_signals)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=ENVIRONMENT, **pipes, **options) as process:  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_removes_temporary_files_and_is_one_line(tmp_path: Path, number: signal.Signals) -> None:
    with start(WRITES, str(tmp_path / "out")) as process:
        read_until(process, "ready")
        assert list(tmp_path.iterdir())
        process.send_signal(number)
        errors = process.communicate()[1]
    assert process.returncode == 143
    assert not list(tmp_path.iterdir())
    assert errors.startswith(f"writer: error: stopped by {number.name}; ") and len(errors.splitlines()) == 1


def test_signals_at_once_count_as_one(tmp_path: Path) -> None:
    with start(WRITES, str(tmp_path / "out")) as process:
        read_until(process, "ready")
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
            process.send_signal(number)
        errors = process.communicate()[1]
    assert process.returncode == 143 and len(errors.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_later_signal_ends_the_process_at_once() -> None:
    with start(CLEANS_UP) as process:
        read_until(process, "ready")
        process.send_signal(signal.SIGTERM)
        read_until(process, "cleaning up")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == -signal.SIGTERM


def test_nohup_is_respected(tmp_path: Path) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    with start(WRITES, str(tmp_path / "out"), preexec_fn=ignore) as process:
        read_until(process, "ready")
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert "stopped by SIGTERM" in process.communicate()[1]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 7 << 8), (signal.SIGTERM, signal.SIGTERM)])
def test_a_forked_worker_leaves_the_report_to_its_parent(number: signal.Signals, status: int) -> None:
    with start(FORKS) as process:
        os.kill(int(read_until(process, "ready").split()[1]), number)
        assert process.communicate() == (f"{int(status)}\n", "")
    assert process.returncode == 0


def test_signal_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    assert call_command("p", lambda: None) == 0
    assert [signal.getsignal(number) for number in SIGNALS] == before


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None
        time.sleep(0.001)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGHUP, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", ["windows", *(pytest.param(each, marks=pytest.mark.slow) for each in ("update", "driver"))]
)
def test_a_signal_ends_a_command_that_writes(tmp_path: Path, name: str, number: signal.Signals) -> None:
    text = "word " * 100
    rows = (f'{{"_id": "p{n}", "title": "t", "text": "{n} {text}"}}\n' for n in range(100_000))
    row = f'{{"question": "q", "answers": ["a"], "positive_ctxs": [{{"title": "t", "text": "{text}"}}]}}\n'
    source, out = tmp_path / "c.jsonl", tmp_path / "out"
    source.write_text("".join(rows) if name != "driver" else row * 100_000)
    arguments = {
        "windows": ["-m", "text", "windows", f"--collection={source}", f"--output_dir={out}"],
        "update": ["-m", "text", "update", f"--collection={source}", f"--upsert={source}", f"--output={out}/c.jsonl"],
        "driver": [
            str(ROOT / "examples/dpr/main.py"),
            "--sel_data",
            f"--sel_raw_path={source}",
            f"--sel_out_path={out}/r.jsonl",
            "--sel_num_items=1000000",
            "--sel_keep_without_negatives",
        ],
    }[name]
    command = [sys.executable, *arguments]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, preexec_fn=reset_signals
    ) as process:
        wait_for(lambda: list(out.glob(".dpr-text-*")), process)
        process.send_signal(number)
        errors = process.communicate()[1]
    assert process.returncode == 143
    assert f"stopped by {number.name}; " in errors.splitlines()[-1] and "Traceback" not in errors
    assert not out.exists()


@pytest.mark.parametrize("module", ["text.artifacts", "numpy"])
def test_a_signal_during_the_imports_is_one_line(module: str) -> None:
    """An exception would abort torch's C++ code, and bare excepts in other libraries would swallow it."""
    command = [sys.executable, "-X", "importtime", "-m", "dpr_text", "mine", "--rows=a", "--collection=b", "--output=c"]
    with subprocess.Popen(
        command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, preexec_fn=reset_signals
    ) as process:
        assert process.stderr is not None
        while f" {module}." not in process.stderr.readline():  # The package itself is reported after its modules.
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        errors = process.communicate()[1]
    assert process.returncode == 143 and "Traceback" not in errors
    [line] = [line for line in errors.splitlines() if not line.startswith("import time:")]
    assert line.startswith("dpr-text mine: error: stopped by SIGINT")


def test_a_signal_in_a_call_from_an_import_raises(tmp_path: Path) -> None:
    """A signal raises if the call comes from a script that is itself being imported."""
    (tmp_path / "script.py").write_text(
        "import os, signal\nfrom text.commands.running import call_command\n"
        "def work():\n    try:\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    finally:\n        print('cleaned up', flush=True)\n"
        "code = call_command('p', work)\n"
    )
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", "import script, sys; sys.exit(script.code)"]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, preexec_fn=reset_signals
    )
    assert (done.returncode, done.stdout) == (143, "cleaned up\n") and done.stderr.startswith(
        "p: error: stopped by SIGTERM"
    )


REPORTS_ITS_START = """
import os, sys, dpr_text

class Start:
    def find_spec(self, name, path=None, target=None):
        if name == "text.commands":
            sys.meta_path.remove(self)
            os.write(1, b"ready\\n")

sys.meta_path.insert(0, Start())
sys.exit(dpr_text.main())
"""
"""``dpr-text`` with a line on stdout before its first import."""


@pytest.mark.slow
def test_ctrl_c_at_any_time_after_the_start_of_python_is_one_line(tmp_path: Path) -> None:
    data = ROOT / "examples/dpr/data/nq3_tiny/data/retriever"
    flags = [f"--data_path={data}", f"--output_dir={tmp_path}/run", "--tied", "--vocab_size=500", "--overwrite"]
    command = [sys.executable, "-c", REPORTS_ITS_START, "train", *flags, "--max_epochs=1000"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    for delay in range(0, 3000, 150):
        with subprocess.Popen(command, env=ENVIRONMENT, text=True, preexec_fn=reset_signals, **pipes) as process:  # type: ignore[call-overload]
            read_until(process, "ready")
            time.sleep(delay / 1000)
            process.send_signal(signal.SIGINT)
            errors = process.communicate()[1]
        assert process.returncode == 143, (delay, errors)
        assert errors.count("stopped by SIGINT") == 1 and "Traceback" not in errors, (delay, errors)
