"""The base install works as a library. Code that needs an extra reports the missing extra in one line."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from test.helpers import records, save_model, write_collection, write_jsonl
from test.pages import ROOT
from text.commands import main

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
USER_EXTRAS = [name for name in EXTRAS if name not in ("test", "bench", "docs", "dev", "torchtext")]
TRACKERS = ("wandb", "mlflow")  # clients of services, which few users need
WITHOUT_EXTRA = (
    "torchtext",
    "markupsafe",
    "starlette",
)  # torchtext has its own lane; the others are parts of jinja2 and FastAPI


def list_distributions(requirements: list[str]) -> set[str]:
    """Return the names of required distributions, including those of our own extras."""
    found = set[str]()
    for package in map(Requirement, requirements):
        is_ours = package.name == PROJECT["name"]
        found |= {canonicalize_name(package.name)} if not is_ours else set()
        for extra in package.extras if is_ours else ():
            found |= list_distributions(EXTRAS[extra])
    return found


def list_extra_modules() -> list[str]:
    """Return the top-level modules that are missing from an install without extras."""
    optional = list_distributions([line for name in USER_EXTRAS for line in EXTRAS[name]])
    found = {name for name, names in packages_distributions().items() if optional & set(map(canonicalize_name, names))}
    return sorted(name for name in found if name.isidentifier())


def list_foreign_imports(tree: ast.AST) -> Iterator[str]:
    """Yield the top-level module of each import that must succeed at run time."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Try | ast.With) and "ModuleNotFoundError" in ast.unparse(node):
            continue  # the import may fail
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).partition(".")[0]
        yield from list_foreign_imports(node)


def test_each_imported_package_is_in_the_base_install_or_in_the_extra_of_its_module() -> None:
    names, seen = packages_distributions(), set[str]()
    for path in sorted((ROOT / "text").rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        extras = re.findall(r'^ *with explain_missing\("(\w+)"\):$', source, flags=re.MULTILINE)
        extras += ["train"] * (path.parent.name == "training")  # text/training/__init__.py guards all its modules
        seen.update(extras)
        allowed = list_distributions([*PROJECT["dependencies"], *(line for extra in extras for line in EXTRAS[extra])])
        for module in set(list_foreign_imports(ast.parse(source))) - sys.stdlib_module_names - {"text", *WITHOUT_EXTRA}:
            packages = set(map(canonicalize_name, names.get(module, [module])))  # mteb is not in every lane
            assert allowed & packages, f"{path} imports {module}"
    assert seen == {*USER_EXTRAS, "bench"} - {"cli", "all", "tensorboard", *TRACKERS}


def test_the_extra_all_has_all_extras_for_users_but_the_trackers() -> None:
    assert list_distributions(EXTRAS["all"]) == list_distributions(
        [line for name in USER_EXTRAS if name not in TRACKERS for line in EXTRAS[name]]
    )
    assert list_distributions(EXTRAS["cli"]) == list_distributions([*EXTRAS["train"], *EXTRAS["report"]])


WITHOUT_EXTRAS = """
import io, json, sys
from contextlib import redirect_stderr
from pathlib import Path

blocked, commands = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(blocked))
import text.datasets, text.transforms, text.models, text.losses, text.evaluation, text.bundle, text.retrieval
from text.commands import main

for command in commands:
    with redirect_stderr(io.StringIO()) as printed:
        code = main(command)
    print(json.dumps([code, printed.getvalue()]))
"""


def test_without_extras_the_library_works_and_commands_name_the_extra_to_install(tmp_path: Path) -> None:
    model, embeddings = f"--model={save_model(tmp_path / 'model', 0)}", f"--embeddings={tmp_path}/embeddings"
    rows, passages = write_jsonl(tmp_path / "train.jsonl", records(2)), tmp_path / "passages.jsonl"
    write_collection(passages, ["a", "b"], ["x", "y"])
    (tmp_path / "rows.parquet").touch()
    encode = ["encode", model, f"--collection={passages}", f"--output_dir={tmp_path}/embeddings"]
    search = ["search", f"--questions={rows}", f"--run={tmp_path}/run.trec"]
    commands = {
        ("pytorch_lightning", "train"): ["train", f"--data_path={tmp_path}", f"--output_dir={tmp_path}/run"],
        ("matplotlib", "report"): ["check", f"--data_path={tmp_path}", f"--picture={tmp_path}/lengths.png"],
        ("bm25s", "bm25"): [*search, "--bm25", f"--collection={passages}", "--overwrite"],
        ("faiss", "faiss"): [*search, model, embeddings, "--index=HNSW32", "--overwrite"],
        ("pymilvus", "milvus"): [*search, model, embeddings, f"--milvus={tmp_path}/milvus.db", "--overwrite"],
        ("pyarrow", "parquet"): ["convert", f"--data_path={tmp_path}/rows.parquet", f"--output_dir={tmp_path}/rows"],
        ("fastapi", "serve"): ["serve", model, embeddings],
    }
    works = [encode, [*search, model, embeddings]]
    arguments = json.dumps([list_extra_modules(), [*works, *commands.values()]])
    python = [sys.executable, "-W", "ignore", "-c", WITHOUT_EXTRAS, arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(python, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
    assert [code for code, _ in lines[: len(works)]] == [0] * len(works), lines
    for ((package, extra), command), (code, printed) in zip(commands.items(), lines[len(works) :], strict=True):
        assert code == 2 and printed.count("\n") == 1, printed
        assert re.match(rf"dpr-text {command[0]}: error: {package}\b", printed), printed
        assert f'pip install "dpr-text[{extra}]"' in printed


def test_a_loop_without_bm25_ends_before_its_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "bm25s", None)
    monkeypatch.delitem(sys.modules, "text.retrieval.bm25", raising=False)
    assert main(["loop", "--config=tiny", f"--output_dir={tmp_path}/loop"]) == 2
    assert 'pip install "dpr-text[bm25]"' in capsys.readouterr().err
    assert not (tmp_path / "loop").exists()
