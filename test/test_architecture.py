"""Six rules of the library's layout. Each rule must hold for the whole tree and must find an injected violation.

A tree maps paths to source texts. The function of a rule yields its violations, ``path: message``.
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
    "reranker": 2,
    "training": 3,
    "retrieval": 3,
    "runs": 4,
    "serving": 4,
    "reports": 5,
    "commands": 6,
    "__main__": 7,
}
OWNERS = {
    "yaml": "artifacts",
    "jinja2": "templates",
    "torchdata": "datasets",
    "orjson": "datasets",
    "simdjson": "datasets",
    "zstandard": "datasets",
    "pyarrow": "datasets",
    "tokenizers": "transforms",
    "tiktoken": "transforms",
    "torchtext": "transforms",
    "safetensors": "models",
    "transformers": "models",
    "peft": "models",
    "sentence_transformers": "models",
    "regex": "words",
    "pytorch_lightning": "training",
    "lightning": "training",
    "lightning_fabric": "training",
    "tensorboard": "training",
    "wandb": "training",
    "mlflow": "training",
    "faiss": "retrieval",
    "bm25s": "retrieval",
    "Stemmer": "retrieval",
    "pymilvus": "retrieval",
    "mteb": "retrieval",
    "fastapi": "serving",
    "starlette": "serving",
    "uvicorn": "serving",
    "matplotlib": "reports",
    "argparse": "commands",
}
FLAGS_ALLOWED = ("text/commands/", "examples/dpr/main.py", "test/", "benchmarks/")
COMMAND_FILES = [f"text/commands/{name}.py" for name in COMMANDS] + ["examples/dpr/main.py"]
MAX_LINES = 60
INTERNALS = ("text/models/torch_internals.py", "text/training/lightning_internals.py")
NAMED_TUPLE_NAMES = {"_asdict", "_fields", "_field_defaults", "_replace"}  # public despite the underscore
ATTRIBUTE_FUNCTIONS = ("getattr", "hasattr", "setattr")
UNDOCUMENTED = {"fit_loop"}  # Lightning's loops are renamed between versions


class Import(NamedTuple):
    """Name that a file imports, at the top or inside a function."""

    module: str
    """``a.b`` in ``from a.b import c`` and in ``import a.b``."""
    name: str
    """``c`` in ``from a.b import c``. Empty for ``import a.b``."""

    @property
    def full_name(self) -> str:
        return f"{self.module}.{self.name}" if self.name else self.module


# The rules


def find_upward_imports(tree: Tree) -> Iterator[str]:
    """Check rule 1: imports go strictly to lower levels, without cycles."""
    for path in list_library_files(tree):
        for each in list_imports(tree[path]):
            package, _, rest = each.full_name.partition(".")
            part, other = get_part(path), rest.partition(".")[0]
            if package == "text" and part != other and not get_level(other) < get_level(part):
                yield f"{path}: imports {each.full_name}, which is not on a lower level"
            in_formats, is_formats = (
                name.startswith("text/datasets/formats/") for name in (path, resolve_import(tree, each))
            )
            if in_formats and resolve_import(tree, each).startswith("text/datasets/") and not is_formats:
                yield f"{path}: imports {each.full_name}, which is above text.datasets.formats"
            others = {f"text/commands/{name}.py" for name in COMMANDS} - {path}
            if path in COMMAND_FILES and path != "text/commands/loop.py" and resolve_import(tree, each) in others:
                yield f"{path}: imports {each.full_name}, another command"
    yield from find_import_cycles(tree)


def find_misplaced_dependencies(tree: Tree) -> Iterator[str]:
    """Check rule 2: one package imports each heavy dependency, and private names of libraries stay in INTERNALS."""
    for path in list_library_files(tree):
        for each in list_imports(tree[path]):
            owner = OWNERS.get(each.module.partition(".")[0], get_part(path))
            if get_part(path) != owner:
                yield f"{path}: imports {each.full_name}, which only text/{owner} may import"
        if path not in INTERNALS:
            yield from (
                f"{path}: uses {name}, a private name of another library" for name in list_private_names(tree[path])
            )


def find_configuration_objects(tree: Tree) -> Iterator[str]:
    """Check rule 3: only commands take configuration objects."""
    for path in tree:
        if path.startswith(FLAGS_ALLOWED):
            continue
        yield from (f"{path}: {problem}, a configuration object" for problem in list_configuration_objects(tree[path]))


def find_outward_imports(tree: Tree) -> Iterator[str]:
    """Check rule 4: nothing imports the examples, and examples and benchmarks import only the library."""
    own = {
        "text": {"text"},
        "examples": {"text"},
        "benchmarks": {"text", "benchmarks"},
        "test": {"text", "test", "benchmarks"},
    }
    for path, source in tree.items():
        folder = "test/examples" if path.startswith("test/examples/") else path.partition("/")[0]
        allowed = own["test"] | {"examples"} if folder == "test/examples" else own[folder]
        for each in list_imports(source):
            package = each.module.partition(".")[0]
            if package in own and package not in allowed:
                yield f"{path}: imports {each.full_name}, which {folder} may not import"


def find_long_commands(tree: Tree) -> Iterator[str]:
    """Check rule 5: a command is short, because it only connects parts of the library."""
    for path in COMMAND_FILES:
        if path in tree and (num_lines := count_lines(tree[path])) > MAX_LINES:
            yield f"{path}: {num_lines} lines of code, more than {MAX_LINES}"


def find_shadowed_modules(tree: Tree) -> Iterator[str]:
    """Check rule 6: no module has the name of an exported function, which would hide the module."""
    for path in list_library_files(tree):
        folder = PurePosixPath(path).parent
        if PurePosixPath(path).name == "__init__.py":
            modules = {
                PurePosixPath(other).relative_to(folder).parts[0].removesuffix(".py"): other
                for other in list_library_files(tree)
                if PurePosixPath(other).is_relative_to(folder)
            }
            for name in sorted(list_exported_names(tree[path], str(folder).replace("/", ".")) & modules.keys()):
                yield f"{path}: exports {name}, which is also the module {modules[name]}"


RULES = (
    find_upward_imports,
    find_misplaced_dependencies,
    find_configuration_objects,
    find_outward_imports,
    find_long_commands,
    find_shadowed_modules,
)


@pytest.fixture(scope="module")
def tree() -> Tree:
    files = (path for folder in ("text", "examples", "benchmarks", "test") for path in (ROOT / folder).rglob("*.py"))
    return {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(files)}


@pytest.mark.parametrize("rule", RULES)
def test_rule_holds(rule, tree: Tree) -> None:
    assert list(rule(tree)) == []


def test_every_part_has_a_level(tree: Tree) -> None:
    assert {get_part(path) for path in list_library_files(tree)} == LEVELS.keys()


@pytest.mark.parametrize(
    ("rule", "path", "lines", "message"),
    [
        (find_upward_imports, "text/losses.py", "from text.training import BiEncoderTask", "not on a lower level"),
        (
            find_upward_imports,
            "text/models/roberta.py",
            "from text.transforms.tokenize import Tokenize",
            "not on a lower",
        ),
        (find_upward_imports, "text/records.py", "import text.losses", "not on a lower level"),
        (find_upward_imports, "text/__init__.py", "from text.datasets import DPRDataPipe", "not on a lower level"),
        (find_upward_imports, "text/bundle.py", "from text import retrieval", "not on a lower level"),
        (find_upward_imports, "text/serving/new.py", "from text.runs import folder", "not on a lower level"),
        (
            find_upward_imports,
            "text/runs/new.py",
            "def f():\n    from text.commands import main",
            "not on a lower level",
        ),
        (find_upward_imports, "text/datasets/formats/jsonl.py", "from text.datasets import order", "above"),
        (find_upward_imports, "text/commands/encode.py", "from text.commands.search import search", "another command"),
        (find_upward_imports, "text/models/linear.py", "from text.models.roberta import RobertaEncoder", "cycle"),
        (find_upward_imports, "text/losses.py", "import text.losses", "cycle"),
        (
            find_upward_imports,
            "text/models/linear.py",
            "if TYPE_CHECKING:\n    from text.models.roberta import RobertaEncoder",
            "cycle",
        ),
        (find_upward_imports, "text/datasets/order.py", "def f():\n    from text.datasets import DPRDataPipe", "cycle"),
        (
            find_misplaced_dependencies,
            "text/datasets/dpr.py",
            "def f():\n    import pytorch_lightning as pl",
            "text/training",
        ),
        (find_misplaced_dependencies, "text/training/task.py", "import safetensors.torch", "text/models"),
        (
            find_misplaced_dependencies,
            "text/commands/train.py",
            "from pytorch_lightning import Trainer",
            "text/training",
        ),
        (find_misplaced_dependencies, "text/reports/new.py", "from jinja2 import Environment", "text/templates"),
        (find_misplaced_dependencies, "text/runs/new.py", "import matplotlib.pyplot as plt", "text/reports"),
        (find_misplaced_dependencies, "text/commands/serve.py", "import uvicorn", "text/serving"),
        (find_misplaced_dependencies, "text/retrieval/new.py", "from argparse import ArgumentParser", "text/commands"),
        (
            find_misplaced_dependencies,
            "text/training/task.py",
            "x = trainer._logger_connector",
            "trainer._logger_connector",
        ),
        (find_misplaced_dependencies, "text/training/task.py", "x = trainer.fit_loop", "trainer.fit_loop"),
        (find_misplaced_dependencies, "text/training/task.py", 'x = getattr(it, "_workers", ())', "_workers"),
        (find_misplaced_dependencies, "text/models/linear.py", "x = torch.ops.mkldnn", "torch.ops"),
        (find_misplaced_dependencies, "text/models/linear.py", "from torch import ops", "torch.ops"),
        (find_misplaced_dependencies, "text/commands/train.py", "import lightning as L", "text/training"),
        (find_misplaced_dependencies, "text/models/linear.py", "from torch.nn.modules.utils import _pair", "_pair"),
        (find_misplaced_dependencies, "text/models/linear.py", "import torch._dynamo", "torch._dynamo"),
        (find_configuration_objects, "text/training/task.py", "def f(flags): ...", "f takes flags"),
        (find_configuration_objects, "text/runs/new.py", "def f(x: TrainFlags | None): ...", "f takes x"),
        (find_configuration_objects, "text/runs/new.py", "def f(*, train_config): ...", "f takes train_config"),
        (find_configuration_objects, "text/runs/new.py", "class A:\n    settings: TrainFlags", "settings is"),
        (find_configuration_objects, "text/models/new.py", "def f(x: RobertaConfig | TrainFlags): ...", "f takes x"),
        (
            find_configuration_objects,
            "text/models/new.py",
            "class A:\n    def f(self, config: dict): ...",
            "f takes config",
        ),
        (find_outward_imports, "text/datasets/dpr.py", "from examples.dpr.main import train", "text may not"),
        (find_outward_imports, "test/test_losses.py", "import examples.dpr.main", "test may not"),
        (find_outward_imports, "benchmarks/report.py", "from test.pages import Page", "benchmarks may not"),
        (find_outward_imports, "examples/dpr/main.py", "from examples.dpr import other", "examples may not"),
        (find_long_commands, "text/commands/select.py", "\n".join(["def f():", *["    x = 1"] * 60]), "lines of code"),
        (find_long_commands, "examples/dpr/main.py", "\n".join(["def f():", *["    x = 1"] * 60]), "lines of code"),
        (find_shadowed_modules, "text/datasets/prefetch.py", "", "text/datasets/prefetch.py"),
        (find_shadowed_modules, "text/models/__init__.py", "from torch import roll as roberta", "roberta.py"),
        (find_shadowed_modules, "text/models/__init__.py", "def linear(): ...", "text/models/linear.py"),
        (find_shadowed_modules, "text/models/__init__.py", "linear = 1", "text/models/linear.py"),
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


# Modules that an import loads


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


def list_library_files(tree: Tree) -> list[str]:
    return [path for path in tree if path.startswith("text/")]


def get_part(path: str) -> str:
    """Return the package or module directly below ``text/`` that contains a file."""
    return path.split("/")[1].removesuffix(".py")


def get_level(part: str) -> int:
    """Return the level of a part. Names of ``text`` itself are on the level of ``__init__``."""
    return LEVELS.get(part, LEVELS["__init__"])


@functools.cache
def list_imports(source: str) -> tuple[Import, ...]:
    found = []
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "an import is relative"
            found += [Import(node.module, alias.name) for alias in node.names]
    return tuple(found)


def resolve_import(tree: Tree, each: Import) -> str:
    """Return the path of the imported file, or an empty text for another library."""
    for module in (each.full_name, each.module):
        for path in (f"{module.replace('.', '/')}.py", f"{module.replace('.', '/')}/__init__.py"):
            if path in tree:
                return path
    return ""


def find_import_cycles(tree: Tree) -> Iterator[str]:
    """Yield import cycles between files of one part, also indirect ones.

    Cycles between parts are impossible, because imports between parts go to lower levels.
    """
    edges = {
        path: {resolve_import(tree, each) for each in list_imports(tree[path])} for path in list_library_files(tree)
    }
    reached = {path: find_reachable(path, edges) for path in edges}
    groups = {
        tuple(sorted(other for other in reached[path] if path in reached[other]))
        for path in edges
        if path in reached[path]
    }
    yield from (f"{', '.join(group)}: import cycle" for group in sorted(groups))


def find_reachable(path: str, edges: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    waiting = [path]
    while waiting:
        new = {other for other in edges[waiting.pop()] if other in edges and get_part(other) == get_part(path)} - found
        found |= new
        waiting += new
    return found


@functools.cache
def list_private_names(source: str) -> list[str]:
    """Return the private names of other libraries that a file uses, and names of torch's operators."""
    return list(find_private_names(source))


def find_private_names(source: str) -> Iterator[str]:
    module = parse(source)
    own = {node.attr for node in ast.walk(module) if isinstance(node, ast.Attribute) and is_self(node.value)}
    own |= {node.name for node in ast.walk(module) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= NAMED_TUPLE_NAMES
    for each in list_imports(source):
        is_foreign = not each.module.startswith("text.")
        if is_foreign and (any(map(is_private, each.full_name.split("."))) or each.full_name == "torch.ops"):
            yield each.full_name
    for node in ast.walk(module):
        if isinstance(node, ast.Attribute) and not is_self(node.value):
            is_foreign = (is_private(node.attr) and node.attr not in own) or node.attr in UNDOCUMENTED
            if is_foreign or (node.attr == "ops" and ast.unparse(node) == "torch.ops"):
                yield ast.unparse(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ATTRIBUTE_FUNCTIONS:
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)) and name.value not in own:
                yield str(name.value)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


@functools.cache
def list_configuration_objects(source: str) -> list[str]:
    """Return the arguments and annotated names of a file that are configuration objects."""
    found = []
    for node in ast.walk(parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            arguments = (each for each in ast.walk(node.args) if isinstance(each, ast.arg))
            found += [
                f"{node.name} takes {each.arg}" for each in arguments if is_configuration(each.arg, each.annotation)
            ]
        elif isinstance(node, ast.AnnAssign) and is_configuration(ast.unparse(node.target), node.annotation):
            found.append(f"{ast.unparse(node.target)} is")
    return found


def is_configuration(name: str, annotation: ast.expr | None) -> bool:
    """Return whether a name or its annotation denotes a configuration object. RobertaConfig is allowed."""
    kinds = re.findall(r"\w+", ast.unparse(annotation) if annotation else "")
    names = [name.lower(), *kinds] if "RobertaConfig" not in kinds else set(kinds) - {"RobertaConfig"}
    return any(re.fullmatch(r"(\w+_)?(flags|config)|\w*(Flags|Config)", each) for each in names)


def count_lines(source: str) -> int:
    """Count the lines of code of a command, without imports, docstrings, comments and flag classes."""
    module = parse(source)
    left_out: set[int] = set()
    for node in ast.walk(module):
        if isinstance(node, ast.Import | ast.ImportFrom):
            left_out.update(get_line_numbers(node))
        elif isinstance(node, ast.ClassDef) and node.name.endswith("Flags"):
            left_out.update(*map(get_line_numbers, [node, *node.decorator_list]))
        elif isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            left_out.update(get_line_numbers(node.body[0]))
    no_code = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in no_code:
            lines.update(range(token.start[0], token.end[0] + 1))
    return len(lines - left_out)


def get_line_numbers(node: ast.stmt | ast.expr) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def list_exported_names(source: str, package: str) -> set[str]:
    """Return the names that a package's ``__init__`` defines or imports, except its own modules."""
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
