"""``dpr-text serve``: refused flags, searches, and shutdown by a signal."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from test.serving.helpers import exchange, get, make_site, open_connection, server, wait_until
from text.commands.cli import parse_flags, run_command
from text.commands.serve import ServeFlags, load_searches, serve

REPOSITORY = Path(__file__).parents[2]
# dpr-text with a search that waits for a file.
SLOW_COMMAND = """
import sys, time
from pathlib import Path
from text.commands import main
from text.retrieval import Retriever

search, folder = Retriever.search, Path(sys.argv[1])

def wait_and_search(*arguments, **options):
    (folder / "asked").touch()
    while not (folder / "go").exists():
        time.sleep(0.005)
    return search(*arguments, **options)

Retriever.search = wait_and_search
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("site"))


def site_flags(site: Path) -> list[str]:
    return [f"--model={site}/model", f"--embeddings={site}/embeddings", "--device=cpu"]


def fail(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, str]:
    """Run a command that fails, and return its exit code and message."""
    code = run_command(serve, ServeFlags, flags)
    [line] = capsys.readouterr().err.splitlines()
    return code, line.partition("error: ")[2]


@pytest.mark.parametrize(
    ("flag", "named"),
    [
        ("--other_model=a", ["--other_model", "--other_embeddings"]),
        ("--other_embeddings=a", ["--other_model", "--other_embeddings"]),
        ("--k=101", ["--k", "101", "--max_k", "100"]),
        ("--k=0", ["--k", "0"]),
        ("--max_characters=0", ["--max_characters", "0"]),
        ("--max_batch=0", ["--max_batch", "0"]),
        ("--queue_size=0", ["--queue_size", "0"]),
        ("--allowed_hosts=[a:80]", ["a:80"]),
        ("--port=65536", ["port", "65536"]),
        ("--port=-1", ["port", "-1"]),
        ("--index_parameters=efSearch=1", ["--index_parameters", "--index"]),
        ("--encoder_precision=int4", ["encoder_precision"]),
        ("--fusion=ranks", ["--fusion", "--bm25"]),
        ("--fusion_weight=0.5", ["--fusion_weight", "--fusion"]),
        ("--fusion_depth=200", ["--fusion_depth", "--fusion"]),
    ],
)
def test_an_invalid_flag_is_refused_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, flag: str, named: list[str]
) -> None:
    code, message = fail(capsys, f"--model={tmp_path}", "--embeddings=nowhere", flag)
    assert code == 2
    assert all(re.search(rf"(?<!\w){re.escape(each)}(?!\w)", message) for each in named), message


@pytest.mark.parametrize("missing", ["model", "embeddings"])
def test_model_and_embeddings_are_required(capsys: pytest.CaptureFixture[str], missing: str) -> None:
    [given] = {"model", "embeddings"} - {missing}
    code, message = fail(capsys, f"--{given}=nowhere")
    assert code == 2 and missing in message


def test_a_port_in_use_is_reported_before_anything_is_loaded(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with server.bind_socket("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        code, message = fail(capsys, f"--model={tmp_path}", "--embeddings=nowhere", f"--port={port}")
    assert code == 2 and message.startswith(f"127.0.0.1:{port}: ")


def test_a_wrong_path_of_the_second_model_is_reported_before_the_first_is_loaded(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("text.serving.load_search", lambda *_, **__: pytest.fail("a model was loaded"))
    for model, embeddings in (("nowhere", "embeddings"), ("model", "nowhere")):
        flags = [f"--other_model={site}/{model}", f"--other_embeddings={site}/{embeddings}"]
        code, message = fail(capsys, *site_flags(site), *flags, "--port=0")
        assert code == 2 and f"{site}/nowhere" in message


def test_the_same_model_twice_is_refused(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [f"--other_model={site}/model", f"--other_embeddings={site}/embeddings"]
    code, message = fail(capsys, *site_flags(site), *flags)
    assert code == 2 and "--other_model" in message and "--other_embeddings" in message


def test_a_collection_that_changed_is_refused(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = site / "corpus.jsonl"
    before = path.read_bytes()
    path.write_bytes(before.replace(b"title 3", b"title 4"))
    code, message = fail(capsys, *site_flags(site), "--port=0")
    path.write_bytes(before)
    assert code == 5 and message.startswith(f"{path}: ")


def test_missing_embeddings_are_refused(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, message = fail(capsys, f"--model={site}/model", f"--embeddings={site}/nowhere", "--port=0")
    assert code == 2 and f"{site}/nowhere" in message


def test_the_help_needs_no_torch() -> None:
    code = "import sys; from text.commands import main\n"
    code += "try: main(['serve', '--help'])\nfinally: print({*sys.modules} & {'torch'})"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and "--encoder_precision" in done.stdout
    assert done.stdout.endswith("set()\n")


def test_each_search_has_its_own_name_without_a_path(site: Path, tmp_path: Path) -> None:
    pytest.importorskip("bm25s")
    alone = site_flags(site)
    one_model = [*alone, f"--other_model={site}/model", f"--other_embeddings={site}/./embeddings"]
    two_models = [*alone, f"--other_model={tmp_path}/model", f"--other_embeddings={site}/./embeddings"]
    (tmp_path / "model").symlink_to(site / "model")
    for argv, names in (
        (alone, ["model"]),
        (one_model, ["embeddings (1)", "embeddings (2)"]),
        (two_models, [f"{site.name}/model", f"{tmp_path.name}/model"]),
    ):
        searches = load_searches(parse_flags(ServeFlags, [*argv, "--bm25"]))
        assert [search.name for search in searches] == [*names, "BM25"]
        assert all(search.is_exact for search in searches)


def test_a_precision_that_the_device_decides_is_told(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("text.retrieval.devices.choose_precision", lambda capability: "bfloat16")
    for flags, num_lines in (([], 1), (["--encoder_precision=bfloat16"], 0)):
        load_searches(parse_flags(ServeFlags, [*site_flags(site), *flags]))
        captured = capsys.readouterr()
        assert captured.err.count("precision: bfloat16 on ") == num_lines and not captured.out


def test_the_index_is_used_for_the_first_model_only(site: Path) -> None:
    pytest.importorskip("faiss")
    others = [f"--other_model={site}/model", f"--other_embeddings={site}/./embeddings"]
    index = ["--index=HNSW4", "--index_parameters=efSearch=32"]
    searches = load_searches(parse_flags(ServeFlags, [*site_flags(site), *others, *index]))
    assert [search.is_exact for search in searches] == [False, True]


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_ends_the_server_after_its_questions_are_answered(
    site: Path, tmp_path: Path, number: signal.Signals
) -> None:
    with start_slow_server(site, tmp_path) as (process, port), ThreadPoolExecutor(1) as pool:
        reply = pool.submit(get, port, "/search", q="oak")
        wait_until((tmp_path / "asked").exists)
        process.send_signal(number)
        wait_until(lambda: not accepts_connections(port))
        (tmp_path / "go").touch()
        assert reply.result().status == 200
        assert process.wait() == 143
    *_, line = (tmp_path / "errors").read_text().splitlines()
    assert line.startswith(f"dpr-text serve: error: stopped by {number.name}; ")
    assert "Traceback" not in (tmp_path / "errors").read_text()


@pytest.mark.slow
def test_silent_and_slow_clients_do_not_use_up_all_file_descriptors(site: Path, tmp_path: Path) -> None:
    with start_server(site, tmp_path, max_files=64) as (process, port), ExitStack() as stack:
        for beginning in (b"", b"GET /search?q=oak HTTP/1.1\r\nHost: localhost\r\nX: a"):
            slow = [stack.enter_context(open_connection(port, beginning)) for _ in range(60)]
            for _ in range(10):
                for connection in slow:
                    with suppress(ConnectionError):  # The server has closed it.
                        connection.sendall(b"a" * bool(beginning))
                assert get(port, "/search", q="oak").status == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 143
    assert len((tmp_path / "errors").read_text().splitlines()) == 1


def test_a_truncated_shard_gives_an_error_response_and_no_bus_error(tmp_path: Path) -> None:
    site = make_site(tmp_path)
    with start_server(site, tmp_path) as (process, port):
        os.truncate(site / "embeddings" / "shard-00000.npy", 200)
        assert [get(port, path).status for path in ("/search?q=oak", "/?q=oak", "/health")] == [503] * 3
        assert str(site) not in get(port, "/health").text
        assert process.poll() is None
    assert f"{site}/embeddings/shard-00000.npy: " in (tmp_path / "errors").read_text()


def test_an_open_address_is_reported_and_answers_to_its_names(site: Path, tmp_path: Path) -> None:
    flags = ["--host=0.0.0.0", "--allowed_hosts=[search.example]"]
    with start_server(site, tmp_path, *flags) as (process, port):
        hosts = (b"search.example", b"127.0.0.1", b"evil.example")
        requests = (b"GET /health HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % host for host in hosts)
        assert [exchange(port, request).status for request in requests] == [200, 200, 400]
        process.send_signal(signal.SIGHUP)
        assert process.wait() == 143
    warning, stopped = (tmp_path / "errors").read_text().splitlines()
    assert warning.startswith("dpr-text serve: warning: --host=0.0.0.0: ") and "SIGHUP" in stopped


@contextmanager
def start_slow_server(site: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the command in a process whose search waits for the file "go". Yield the process and the port."""
    with start_server(
        site, folder, command=[sys.executable, "-W", "ignore", "-c", SLOW_COMMAND, str(folder)]
    ) as started:
        yield started


@contextmanager
def start_server(
    site: Path,
    folder: Path,
    *flags: str,
    command: Sequence[str] = (sys.executable, "-W", "ignore", "-m", "text"),
    max_files: int = 1024,
) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the command in a process with a limited number of open files. Yield the process and the port."""
    limited = ["bash", "-c", f'ulimit -n {max_files}; exec "$@"', "-", *command]
    with (
        open(folder / "errors", "w") as errors,
        subprocess.Popen(
            [*limited, "serve", *site_flags(site), "--port=0", *flags],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            found = re.fullmatch(r"http://[\d.]+:(\d+)/\n", process.stdout.readline())
            assert found, (folder / "errors").read_text()
            wait_until(lambda: accepts_connections(int(found[1])))
            yield process, int(found[1])
        finally:
            process.kill()


def accepts_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True
