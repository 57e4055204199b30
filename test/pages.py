"""Run the code blocks of documentation pages: every bash and Python block, in the order of the page.

A page runs in its own folder, which contains small stand-ins for the files that pages name. An ``output`` block shows
the output of the block before it: each of its lines must be printed in this order, and ``...`` matches anything. In
the output of commands, numbers with a decimal point may differ, because they are measurements.

Starting Python and importing torch takes seconds, and pages have many commands. Therefore the commands ``python`` and
``dpr-text`` of a page are clients of a server process that has imported the library and forks for each call.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from text.commands import COMMANDS

ROOT = Path(__file__).parents[1]
TINY = ROOT / "examples/dpr/data/nq3_tiny/data/retriever"
_BLOCK = re.compile(r"^( *)```(\w+)( slow)?\n(.*?)^\1```", flags=re.DOTALL | re.MULTILINE)
_MEASURED = re.compile(r"-?\d+\.\d+(e[-+]?\d+)?")
_CLIENT = """#!{python} -IS
import json, os, socket, sys
arguments, folder = [*{module!r}, *sys.argv[1:]], os.getcwd()
call = {{"arguments": arguments, "client": {client!r}, "folder": folder, "environment": dict(os.environ)}}
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [b"."], [0, 1, 2])
    server.sendall(json.dumps(call).encode() + b"\\n")
    sys.exit((server.recv(1) or b"\\1")[0])
"""


class Block(NamedTuple):
    """Code block of a page."""

    language: str
    """bash or python."""
    code: str
    line: int
    """Line of the page on which the code starts."""
    is_slow: bool
    printed: str | None
    """Content of the ``output`` block after the code, if there is one."""


def find_blocks(page: str) -> list[Block]:
    """Return the bash and Python blocks of a page, each with the output that the page shows."""
    found: list[Block] = []
    for block in _BLOCK.finditer(page):
        indent, language, slow, code = block.groups()
        code = re.sub(f"^{indent}", "", code, flags=re.MULTILINE)
        if language in ("bash", "python"):
            line = page.count("\n", 0, block.start()) + 2
            found.append(Block(language, code, line, slow is not None, None))
        elif language == "output":
            found[-1] = found[-1]._replace(printed=code)
    return found


def run_blocks(code: Sequence[Block], folder: Path, python: Path) -> list[str]:
    """Run blocks in a folder and return the output of each block. Python blocks share their variables."""
    calls, results = folder / ".blocks.json", folder / ".printed.json"
    calls.write_text(json.dumps(code), encoding="utf-8")
    command = [python, "-m", "test.pages", calls, results]
    environment = {**os.environ, "PATH": f"{python.parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "120"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(results.read_text(encoding="utf-8"))


def find_missing_line(block: Block, printed: str) -> str | None:
    """Return the first line that the page shows and its code does not print."""
    lines = (_normalize_line(block, line) for line in printed.splitlines())
    for shown in (block.printed or "").splitlines():
        pattern = re.escape(_normalize_line(block, shown)).replace(r"\.\.\.", ".*")
        if not any(re.fullmatch(pattern, line) for line in lines):
            return shown
    return None


def _normalize_line(block: Block, line: str) -> str:
    """Return a line without a progress bar before it. Measured numbers become ``#``."""
    line = " ".join(line.rpartition("\r")[2].split())
    return _MEASURED.sub("#", line) if block.language == "bash" else line


def write_stand_ins(folder: Path) -> None:
    """Write small versions of the data and models that pages name into a folder."""
    import torch

    from text.models import roberta_tiny
    from text.transforms import save_tokenizer, train_tokenizer

    torch.manual_seed(0)
    for name in ("examples", "text", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copy(TINY / "train.jsonl", folder)
    shutil.copytree(TINY, folder / "data/nq")
    shutil.copy(TINY / "passages.tsv", folder / "psgs_w100.tsv")
    row = {"question": "who", **{name: [{"text": name}] for name in ("positive_ctxs", "negative_ctxs")}}
    rows = [row | {"question": f"who was {n}", "hard_negative_ctxs": [{"text": "no"}]} for n in range(700)]
    (folder / "nq-dev.json").write_text(json.dumps(rows), encoding="utf-8")
    tokenizer = train_tokenizer(["a few words", "who ate the oak", "a beetle did"], 300)
    roberta_tiny(vocab_size=300).save_pretrained(folder / "roberta-base")
    tokenizer.save(str(folder / "roberta-base/tokenizer.json"))
    tokenizer.model.save(str(folder / "roberta-base"))
    roberta_tiny(vocab_size=300, pooling="mean", normalize=True).save_pretrained(folder / "all-MiniLM-L6-v2")
    save_tokenizer(tokenizer, folder / "all-MiniLM-L6-v2", max_length=64)
    _write_modernbert(folder / "ModernBERT-base")
    (folder / "squad_w100").mkdir()
    passages = "id\ttext\ttitle\n1\ta beetle did\toaks\n2\tnobody ate\tashes\n3\tit grew\telms\n"
    (folder / "squad_w100/passages.tsv").write_text(passages, encoding="utf-8")
    (folder / "squad_w100/test.qa.csv").write_text("who ate the oak\t['beetle']\n", encoding="utf-8")
    _write_beir_set(folder, passages)
    _write_fair_checkpoint(folder)
    _write_downloads(folder / "downloads/data")


def _write_modernbert(folder: Path) -> None:
    """Write a model of transformers, if it is installed."""
    if find_spec("transformers") is None:
        return
    import transformers

    from text.transforms import save_tokenizer, train_tokenizer

    sizes = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    tokens = {"pad_token_id": 1, "cls_token_id": 0, "bos_token_id": 0, "sep_token_id": 2, "eos_token_id": 2}
    options: dict[str, Any] = {**sizes, **tokens, "intermediate_size": 48}
    config = transformers.ModernBertConfig(**options)
    transformers.ModernBertModel(config).save_pretrained(folder)
    save_tokenizer(train_tokenizer(["a few words", "who ate the oak", "a beetle did"], 300), folder)


def _write_downloads(folder: Path) -> None:
    """Write Natural Questions in the layout of FAIR's download script."""
    (folder / "retriever/qas").mkdir(parents=True)
    for stage, name in (("train", "nq-train"), ("valid", "nq-dev")):
        rows = [json.loads(line) for line in (TINY / f"{stage}.jsonl").read_text(encoding="utf-8").splitlines()]
        (folder / f"retriever/{name}.json").write_text(json.dumps(rows, indent=4), encoding="utf-8")
    (folder / "retriever/qas/nq-test.csv").write_text("who ate the oak\t['beetle']\n", encoding="utf-8")
    (folder / "wikipedia_split").mkdir()
    shutil.copy(TINY / "passages.tsv", folder / "wikipedia_split/psgs_w100.tsv")


def _write_beir_set(folder: Path, passages: str) -> None:
    """Write a data set in BEIR's layout."""
    rows = [line.split("\t") for line in passages.splitlines()[1:]]
    lines = [json.dumps({"_id": name, "title": title, "text": text}) + "\n" for name, text, title in rows]
    (folder / "corpus.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "queries.jsonl").write_text('{"_id": "q1", "text": "who ate the oak"}\n', encoding="utf-8")
    (folder / "qrels").mkdir()
    (folder / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\t1\t1\n", encoding="utf-8")


def _write_fair_checkpoint(folder: Path) -> None:
    """Write a BERT vocabulary and a checkpoint in the format of FAIR's DPR."""
    import torch

    from text.models import roberta_tiny
    from text.models.keys import DPR, add_token_types, to_external_keys

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    (folder / "bert-base-uncased").mkdir()
    (folder / "bert-base-uncased/vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    encoder = roberta_tiny(vocab_size=len(words), model_type="bert", pad_token_id=0, max_position_embeddings=512)
    theirs = to_external_keys(add_token_types(encoder.state_dict(), 2), DPR)
    sides = {f"{side}.{key}": tensor for side in ("question_model", "ctx_model") for key, tensor in theirs.items()}
    torch.save({"model_dict": sides, "offset": 0, "epoch": 39}, folder / "dpr_biencoder.39")


@contextmanager
def warm_python() -> Iterator[Path]:
    """Yield the path of a ``python`` that starts at once. Next to it is ``dpr-text``, which runs ``python -m text``."""
    with tempfile.TemporaryDirectory() as folder:  # the path of a socket must be short
        address, client = f"{folder}/socket", Path(folder, "python")
        for name, module in (("python", []), ("dpr-text", ["-m", "text"])):
            code = _CLIENT.format(python=sys.executable, address=address, client=str(client), module=module)
            client.with_name(name).write_text(code, encoding="utf-8")
            client.with_name(name).chmod(0o755)
        command = [sys.executable, "-m", "test.pages", address]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True) as server:
            try:
                assert server.stdout is not None and server.stdout.readline() == b"ready\n"
                yield client
            finally:
                os.killpg(server.pid, signal.SIGTERM)  # and the calls that are still running


def _serve(address: str) -> None:
    """Serve clients, with a forked process for each call."""
    for name in COMMANDS:
        importlib.import_module(f"text.commands.{name}")
    for name in ("text.retrieval", "text.reports.run_report", "text.retrieval.faiss_index", "text.retrieval.bm25"):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(name)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        print("ready", flush=True)
        while True:
            connection, _ = server.accept()
            if os.fork() == 0:
                server.close()
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> None:
    """Run the call of a client in this process, and end the process."""
    code = 1
    try:
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
        with connection.makefile("rb") as file:
            call = json.loads(file.readline())
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w", buffering=1)  # noqa: SIM115
        os.environ.clear()
        os.environ.update(call["environment"])
        os.chdir(call["folder"])
        sys.executable = call["client"]  # for commands that start commands
        code = _run_python(call["arguments"])
    finally:
        sys.stdout.flush()
        connection.send(bytes([code % 256]))
        os._exit(0)


def _run_python(arguments: list[str]) -> int:
    """Run code (-c), a module (-m) or a script like Python does, and return the exit code."""
    kind, *rest = arguments
    sys.argv = rest if kind in ("-c", "-m") else arguments
    try:
        if kind == "-c":
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        elif kind == "-m":
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(kind, run_name="__main__")
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _execute_blocks(calls: str, results: str) -> None:
    """Run blocks in this process, and write the output of each block to a file."""
    names: dict[str, Any] = {"__name__": "__main__"}
    printed = [_execute_block(Block(*block), names) for block in json.loads(Path(calls).read_text(encoding="utf-8"))]
    Path(results).write_text(json.dumps(printed), encoding="utf-8")


def _execute_block(block: Block, names: dict[str, Any]) -> str:
    if block.language == "python":
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile("\n" * (block.line - 1) + block.code, "<page>", "exec"), names)
        return printed.getvalue()
    command = ["bash", "-euo", "pipefail", "-c", block.code]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"line {block.line}, exit code {done.returncode}:\n{block.code}\n{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    _serve(*sys.argv[1:]) if len(sys.argv) == 2 else _execute_blocks(*sys.argv[1:])
