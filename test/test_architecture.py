"""The six rules of the library's layout. Each rule holds for the whole tree, and finds a violation that is put into it.

A tree is a mapping of paths to source texts. Each function of a rule yields its violations, ``path: message``.
"""

from __future__ import annotations

import ast
import functools
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

from text.commands import COMMANDS

ROOT = Path(__file__).parents[1]
Tree = Mapping[str, str]

LEVELS = {
    "__init__": 0,
    "records": 0,
    "errors": -2,
    "progress": 0,
    "foreign_settings": 0,
    "artifacts": -1,
    "templates": 0,
    "words": 0,
    "datasets": 1,
    "transforms": 1,
    "models": 1,
    "losses": 1,
    "evaluation": 2,
    "bundle": 2,
    "training": 3,
    "retrieval": 3,
    "runs": 4,
    "serving": 4,
    "reports": 5,
    "commands": 6,
    "__main__": 7,
}
DOORS = {
    "yaml": "artifacts",
    "jinja2": "templates",
    "torchdata": "datasets",
    "orjson": "datasets",
    "simdjson": "datasets",
    "zstandard": "datasets",
    "tokenizers": "transforms",
    "tiktoken": "transforms",
    "torchtext": "transforms",
    "safetensors": "models",
    "transformers": "models",
    "sentence_transformers": "models",
    "regex": "words",
    "pytorch_lightning": "training",
    "lightning": "training",
    "lightning_fabric": "training",
    "tensorboard": "training",
    "faiss": "retrieval",
    "bm25s": "retrieval",
    "Stemmer": "retrieval",
    "pymilvus": "retrieval",
    "fastapi": "serving",
    "starlette": "serving",
    "uvicorn": "serving",
    "matplotlib": "reports",
    "argparse": "commands",
}
FLAGS_ALLOWED = ("text/commands/", "examples/dpr/main.py", "test/", "benchmarks/")
COMMAND_FILES = [f"text/commands/{name}.py" for name in COMMANDS] + ["examples/dpr/main.py"]
MOST_LINES = 60
INTERNALS = ("text/models/torch_internals.py", "text/training/lightning_internals.py")
NAMED_TUPLE = {"_asdict", "_fields", "_field_defaults", "_replace"}  # public, in spite of the underscore
UNDOCUMENTED = {"fit_loop"}  # Lightning's loops, whose names change between versions


class Import(NamedTuple):
    """A name that a file imports, wherever in the file the import stands."""

    module: str
    """``a.b`` of ``from a.b import c`` and of ``import a.b``."""
    name: str
    """``c`` of ``from a.b import c``; empty for ``import a.b``."""

    @property
    def full_name(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module


# The rules


def not_downwards(tree: Tree) -> Iterator[str]:
    """Rule 1: imports run strictly downwards, and there is no circle."""
    for path in library(tree):
        for each in imports(tree[path]):
            package, _, rest = each.full_name.partition(".")
            part, other = part_of(path), rest.partition(".")[0]
            if package == "text" and part != other and not level(other) < level(part):
                yield f"{path}: imports {each.full_name}, which is not on a lower level"
            in_formats, is_formats = (name.startswith("text/datasets/formats/") for name in (path, target(tree, each)))
            if in_formats and target(tree, each).startswith("text/datasets/") and not is_formats:
                yield f"{path}: imports {each.full_name}, which is above text.datasets.formats"
            others = {f"text/commands/{name}.py" for name in COMMANDS} - {path}
            if path in COMMAND_FILES and path != "text/commands/loop.py" and target(tree, each) in others:
                yield f"{path}: imports {each.full_name}, another command"
    yield from circles(tree)


def not_through_doors(tree: Tree) -> Iterator[str]:
    """Rule 2: one package imports a heavy dependency, and one file uses the private parts of torch or Lightning."""
    for path in library(tree):
        for each in imports(tree[path]):
            door = DOORS.get(each.module.partition(".")[0], part_of(path))
            if part_of(path) != door:
                yield f"{path}: imports {each.full_name}, whose door is text/{door}"
        if path not in INTERNALS:
            yield from (f"{path}: uses {name}, a private part of another library" for name in private_parts(tree[path]))


def knowing_flags(tree: Tree) -> Iterator[str]:
    """Rule 3: only commands take configuration objects."""
    for path in tree:
        if path.startswith(FLAGS_ALLOWED):
            continue
        for node in ast.walk(parse(tree[path])):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                for argument in ast.walk(node.args):
                    if isinstance(argument, ast.arg) and is_configuration(argument.arg, argument.annotation):
                        yield f"{path}: {node.name} takes {argument.arg}, a configuration object"
            elif isinstance(node, ast.AnnAssign) and is_configuration(ast.unparse(node.target), node.annotation):
                yield f"{path}: {ast.unparse(node.target)} is a configuration object"


def importing_outwards(tree: Tree) -> Iterator[str]:
    """Rule 4: nothing imports the examples; examples and benchmarks import only the library."""
    own = {
        "text": {"text"},
        "examples": {"text"},
        "benchmarks": {"text", "benchmarks"},
        "test": {"text", "test", "benchmarks"},
    }
    for path, source in tree.items():
        folder = "test/examples" if path.startswith("test/examples/") else path.partition("/")[0]
        allowed = own["test"] | {"examples"} if folder == "test/examples" else own[folder]
        for each in imports(source):
            package = each.module.partition(".")[0]
            if package in own and package not in allowed:
                yield f"{path}: imports {each.full_name}, which {folder} does not know"


def long_commands(tree: Tree) -> Iterator[str]:
    """Rule 5: a command only wires."""
    for path in COMMAND_FILES:
        if path in tree and (num_lines := count_lines(tree[path])) > MOST_LINES:
            yield f"{path}: {num_lines} lines of code; expected at most {MOST_LINES}"


def modules_with_exported_names(tree: Tree) -> Iterator[str]:
    """Rule 6: a module that has the name of an exported function cannot be imported as a module."""
    for path in library(tree):
        folder = PurePosixPath(path).parent
        if PurePosixPath(path).name == "__init__.py":
            modules = {
                PurePosixPath(other).relative_to(folder).parts[0].removesuffix(".py"): other
                for other in library(tree)
                if PurePosixPath(other).is_relative_to(folder)
            }
            for name in sorted(exported_names(tree[path], str(folder).replace("/", ".")) & modules.keys()):
                yield f"{path}: exports {name}, which is also the module {modules[name]}"


RULES = (
    not_downwards,
    not_through_doors,
    knowing_flags,
    importing_outwards,
    long_commands,
    modules_with_exported_names,
)


@pytest.fixture(scope="module")
def tree() -> Tree:
    files = (path for folder in ("text", "examples", "benchmarks", "test") for path in (ROOT / folder).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(files)}


@pytest.mark.parametrize("rule", RULES)
def test_rule_holds(rule, tree: Tree) -> None:
    assert list(rule(tree)) == []


def test_every_part_has_a_level(tree: Tree) -> None:
    assert {part_of(path) for path in library(tree)} == LEVELS.keys()


@pytest.mark.parametrize(
    ("rule", "path", "lines", "message"),
    [
        (not_downwards, "text/losses.py", "from text.training import BiEncoderTask", "not on a lower level"),
        (not_downwards, "text/models/roberta.py", "from text.transforms.tokenize import Tokenize", "not on a lower"),
        (not_downwards, "text/records.py", "import text.losses", "not on a lower level"),
        (not_downwards, "text/__init__.py", "from text.datasets import DPRDataPipe", "not on a lower level"),
        (not_downwards, "text/bundle.py", "from text import retrieval", "not on a lower level"),
        (not_downwards, "text/serving/new.py", "from text.runs import folder", "not on a lower level"),
        (not_downwards, "text/runs/new.py", "def f():\n    from text.commands import main", "not on a lower level"),
        (not_downwards, "text/datasets/formats/jsonl.py", "from text.datasets import order", "above"),
        (not_downwards, "text/commands/encode.py", "from text.commands.search import search", "another command"),
        (not_downwards, "text/models/linear.py", "from text.models.roberta import RobertaEncoder", "circle"),
        (not_downwards, "text/losses.py", "import text.losses", "circle"),
        (
            not_downwards,
            "text/models/linear.py",
            "if TYPE_CHECKING:\n    from text.models.roberta import RobertaEncoder",
            "circle",
        ),
        (not_downwards, "text/datasets/order.py", "def f():\n    from text.datasets import DPRDataPipe", "circle"),
        (not_through_doors, "text/datasets/dpr.py", "def f():\n    import pytorch_lightning as pl", "text/training"),
        (not_through_doors, "text/training/task.py", "import safetensors.torch", "text/models"),
        (not_through_doors, "text/commands/train.py", "from pytorch_lightning import Trainer", "text/training"),
        (not_through_doors, "text/reports/new.py", "from jinja2 import Environment", "text/templates"),
        (not_through_doors, "text/runs/new.py", "import matplotlib.pyplot as plt", "text/reports"),
        (not_through_doors, "text/commands/serve.py", "import uvicorn", "text/serving"),
        (not_through_doors, "text/retrieval/new.py", "from argparse import ArgumentParser", "text/commands"),
        (not_through_doors, "text/training/task.py", "x = trainer._logger_connector", "trainer._logger_connector"),
        (not_through_doors, "text/training/task.py", "x = trainer.fit_loop", "trainer.fit_loop"),
        (not_through_doors, "text/training/task.py", 'x = getattr(it, "_workers", ())', "_workers"),
        (not_through_doors, "text/models/linear.py", "x = torch.ops.mkldnn", "torch.ops"),
        (not_through_doors, "text/models/linear.py", "from torch import ops", "torch.ops"),
        (not_through_doors, "text/commands/train.py", "import lightning as L", "text/training"),
        (not_through_doors, "text/models/linear.py", "from torch.nn.modules.utils import _pair", "_pair"),
        (not_through_doors, "text/models/linear.py", "import torch._dynamo", "torch._dynamo"),
        (knowing_flags, "text/training/task.py", "def f(flags): ...", "f takes flags"),
        (knowing_flags, "text/runs/new.py", "def f(x: TrainFlags | None): ...", "f takes x"),
        (knowing_flags, "text/runs/new.py", "def f(*, train_config): ...", "f takes train_config"),
        (knowing_flags, "text/runs/new.py", "class A:\n    settings: TrainFlags", "settings is"),
        (knowing_flags, "text/models/new.py", "def f(x: RobertaConfig | TrainFlags): ...", "f takes x"),
        (knowing_flags, "text/models/new.py", "class A:\n    def f(self, config: dict): ...", "f takes config"),
        (importing_outwards, "text/datasets/dpr.py", "from examples.dpr.main import train", "text does not know"),
        (importing_outwards, "test/test_losses.py", "import examples.dpr.main", "test does not know"),
        (importing_outwards, "benchmarks/report.py", "from test.pages import Page", "benchmarks does not know"),
        (importing_outwards, "examples/dpr/main.py", "from examples.dpr import other", "examples does not know"),
        (long_commands, "text/commands/select.py", "\n".join(["def f():", *["    x = 1"] * 60]), "lines of code"),
        (long_commands, "examples/dpr/main.py", "\n".join(["def f():", *["    x = 1"] * 60]), "lines of code"),
        (modules_with_exported_names, "text/datasets/prefetch.py", "", "text/datasets/prefetch.py"),
        (modules_with_exported_names, "text/models/__init__.py", "from torch import roll as roberta", "roberta.py"),
        (modules_with_exported_names, "text/models/__init__.py", "def linear(): ...", "text/models/linear.py"),
        (modules_with_exported_names, "text/models/__init__.py", "linear = 1", "text/models/linear.py"),
    ],
)
def test_an_injected_violation_is_found(rule, path: str, lines: str, message: str, tree: Tree) -> None:
    before = set(rule(tree))
    [found] = set(rule({**tree, path: f"{tree.get(path, '')}\n{lines}\n"})) - before
    assert path in found and message in found


def test_lines_of_code_by_hand() -> None:
    source = '''"""A command.

Two lines.
"""

import os


@dataclass(frozen=True)
class SelectFlags:
    path: str
    """A path."""


def select(flags: SelectFlags) -> None:  # 1
    """Select."""
    from text import errors

    # A comment.
    print(  # 2
        "one"  # 3
    )  # 4
    print(
        """5
    6 and 7
    """
    )  # 8 and 9
'''
    assert count_lines(source) == 9


# What an import loads


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import text, text.records, text.errors, text.artifacts, text.commands", ["torch", "numpy"]),
        (
            "from text.datasets import DPRDataPipe",
            ["pytorch_lightning", "faiss", "tokenizers", "safetensors", "transformers"],
        ),
        ("from text.models import RobertaEncoder", ["pytorch_lightning", "faiss", "torchdata", "tokenizers"]),
        ("from text.transforms import Tokenize", ["pytorch_lightning", "faiss", "torchdata", "safetensors"]),
    ],
)
def test_an_import_loads_no_more_than_it_needs(statement: str, absent: list[str]) -> None:
    code = f"{statement}\nimport sys\nprint([name for name in {absent} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_help_imports_no_torch() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "text", "--help"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert all(name in run.stdout for name in COMMANDS)
    loaded = {line.rpartition("|")[2].strip().partition(".")[0] for line in run.stderr.splitlines()}
    assert "text" in loaded
    assert not loaded & {"torch", "numpy", "argparse", "yaml"}


# How the rules read a file


@functools.cache
def parse(source: str) -> ast.Module:
    return ast.parse(source)


def library(tree: Tree) -> list[str]:
    return [path for path in tree if path.startswith("text/")]


def part_of(path: str) -> str:
    """Return the package or module right below ``text/`` that a file belongs to."""
    return path.split("/")[1].removesuffix(".py")


def level(part: str) -> int:
    """Return the level of a part. ``text`` itself has names on the lowest level only."""
    return LEVELS.get(part, LEVELS["__init__"])


@functools.cache
def imports(source: str) -> tuple[Import, ...]:
    found = []
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "an import is relative"
            found += [Import(node.module, alias.name) for alias in node.names]
    return tuple(found)


def target(tree: Tree, each: Import) -> str:
    """Return the path of the file that an import names; empty for another library."""
    for module in (each.full_name, each.module):
        for path in (f"{module.replace('.', '/')}.py", f"{module.replace('.', '/')}/__init__.py"):
            if path in tree:
                return path
    return ""


def circles(tree: Tree) -> Iterator[str]:
    """Yield files of one part of the library that import each other, also by way of others.

    Files of several parts cannot, since imports between parts run downwards.
    """
    edges = {path: {target(tree, each) for each in imports(tree[path])} for path in library(tree)}
    reached = {path: reachable(path, edges) for path in edges}
    groups = {
        tuple(sorted(other for other in reached[path] if path in reached[other]))
        for path in edges
        if path in reached[path]
    }
    yield from (f"{', '.join(group)}: circle of imports" for group in sorted(groups))


def reachable(path: str, edges: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [path]
    while waiting:
        new = {other for other in edges[waiting.pop()] if other in edges and part_of(other) == part_of(path)} - found
        found |= new
        waiting += new
    return found


def private_parts(source: str) -> Iterator[str]:
    """Yield what a file uses of other libraries that begins with an underscore, and torch's operators by name."""
    module = parse(source)
    own = {node.attr for node in ast.walk(module) if isinstance(node, ast.Attribute) and is_self(node.value)}
    own |= {node.name for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= NAMED_TUPLE
    for each in imports(source):
        is_foreign = not each.module.startswith("text.")
        if is_foreign and (any(map(is_private, each.full_name.split("."))) or each.full_name == "torch.ops"):
            yield each.full_name
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and not is_self(node.value):
            is_foreign = (is_private(node.attr) and node.attr not in own) or node.attr in UNDOCUMENTED
            if is_foreign or ast.unparse(node) == "torch.ops":
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "hasattr", "setattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)) and name.value not in own:
                yield str(name.value)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def is_configuration(name: str, annotation: ast.expr | None) -> bool:
    """Return whether a name is an object of flags, by its annotation or itself. RobertaConfig is a model's shape."""
    kinds = re.findall(r"\w+", ast.unparse(annotation) if annotation else "")
    names = [name.lower(), *kinds] if "RobertaConfig" not in kinds else set(kinds) - {"RobertaConfig"}
    return any(re.fullmatch(r"(\w+_)?(flags|config)|\w*(Flags|Config)", each) for each in names)


def count_lines(source: str) -> int:
    """Return the lines of code of a command, without imports, docstrings, comments and classes of flags."""
    module = parse(source)
    left_out: set[int] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import | ast.ImportFrom):
            left_out.update(lines_of(node))
        elif isinstance(node, ast.ClassDef) and node.name.endswith("Flags"):
            left_out.update(*map(lines_of, [node, *node.decorator_list]))
        elif isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            left_out.update(lines_of(node.body[0]))
    no_code = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in no_code:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - left_out)


def lines_of(node: ast.stmt | ast.expr) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def exported_names(source: str, package: str) -> set[str]:
    """Return the names that a package's ``__init__`` defines or imports, without its own modules."""
    names = set()
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.ImportFrom) and node.module != package:
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import):
            names |= {alias.asname for alias in node.names if alias.asname}
        elif isinstance(node, ast.Assign):
            names |= set(ast.literal_eval(node.value)) if ast.unparse(node.targets[0]) == "__all__" else set()
            names |= {each.id for each in node.targets if isinstance(each, ast.Name)}
    return names
