"""A sample run, and a parser and checks of HTML pages."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import yaml

from text.artifacts import list_facts, seal, write_json

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
"""Text that would run code in a page without escaping."""


class PageElements(HTMLParser):
    """Elements, attributes and text of an HTML page."""

    def __init__(self, content: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(content)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data

    def values(self, attribute: str) -> list[str]:
        return [value or "" for name, value in self.attributes if name == attribute]


def check_picture(page: str, *, axes: tuple[str, str], lines: list[tuple[str, int, bool]]) -> None:
    """Check the only plot of a page: its axis labels, its colors, and one legend entry for each line.

    Args:
        page: The page.
        axes: Labels of the horizontal and the vertical axis.
        lines: Name, color number and whether the line is dashed, for each line in the order of the legend.
    """
    [picture] = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    texts = re.findall(r"<text [^>]*>([^<]*)</text>", picture)
    assert set(axes) <= set(texts)
    assert not re.findall(r"(?:fill|stroke|color): *(?!none|var\(--)\w*#?\w+", picture)
    style = r'style="fill: none; (stroke-dasharray: [^;]*; )?[^"]*?stroke: var\(--run-(\d)\)'
    drawn = [(int(color), bool(dashes)) for dashes, color in re.findall(style, picture)]
    entry = r'<li><span class="key( dashed)?" style="border-color: var\(--run-(\d)\)"></span>([^<]*)</li>'
    shown = [(unescape(name), int(color), bool(dashed)) for dashed, color, name in re.findall(entry, page)]
    assert shown == lines
    assert sorted(drawn) == sorted((color, dashed) for _, color, dashed in lines)


def write_sample_run(
    folder: Path, *, question: str = "who felled the oak", title: str = "Oak", scale: float = 1.0
) -> Path:
    """Write all files that a report reads, for a run of six steps."""
    folder.mkdir(parents=True)
    settings = {"max_epochs": 3, "gradient_clip_val": 2.0, "monitor": "valid_mrr@10", "tied": False, "resume": None}
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, "learning_rate": scale}))
    columns = ["epoch", "step", "train_loss_step", "gradient_norm", "learning_rate", "valid_loss", "valid_mrr@10"]
    columns += ["valid_passage_cosine", "valid_passage_norm", "valid_average_rank", "valid_recall@1"]
    rows = [f"{step // 2},{step},{scale / (step + 1)},{step + 1},0.001,,,,,," for step in range(6)]
    rows += [f"{epoch},{2 * epoch + 1},,,,{scale},{0.2 + 0.3 * (epoch == 1)},0.5,1.5,3,0.25" for epoch in range(3)]
    (folder / "metrics.csv").write_text("\n".join([",".join(columns), *rows]) + "\n")
    (folder / "speed.csv").write_text(
        "examples/s,padding,epoch,step\n" + "".join(f"{9 + step},0.1,0,{step}\n" for step in range(6))
    )
    counts = {"limit": 8, "texts_by_tokens": {"5": 2, "7": 1, "9": 1}}
    (folder / "lengths.json").write_text(json.dumps({"questions": counts, "passages": {**counts, "limit": 20}}))
    passage = {"passage_id": "1", "title": title, "text": f"The text of {title}.", "score": 0.25}
    worst = {"step": 6, "path": "valid.jsonl", "line": 3, "question": question, "answers": ["Tom"], "num_above": 1234}
    (folder / "worst_questions.jsonl").write_text(
        json.dumps({**worst, "positive": passage, "above": [{**passage, "title": f"not {title}"}]}) + "\n"
    )
    data = {
        "files": [{"path": f"data/{title}.jsonl", "bytes": 9, "sha256": "0" * 64}],
        "questions": 4321,
        "rows_skipped": 7,
        "rows_skipped_because": {"blank question": 7},
        "found": {},
        "duplicate_keys_checked": True,
    }
    manifest = {"versions": {"torch": "2.9"}, "data": {"train": data}, "test": {"test_mrr@10": 0.625}, "files": {}}
    write_json(folder / "manifest.json", seal(manifest))
    return folder


def add_files_to_manifest(folder: Path) -> None:
    """Add the facts of a sample run's files to its manifest, as a finished run does."""
    manifest = json.loads((folder / "manifest.json").read_text())
    names = [path.name for path in folder.iterdir() if path.is_file() and path.name != "manifest.json"]
    facts = list_facts(folder, [folder / name for name in names])
    files = {name: each._asdict() for name, each in facts.items()}
    write_json(folder / "manifest.json", seal(manifest | {"files": files}))


def build_figures(
    figures: dict[str, dict[str, float]],
    *,
    runs: list[str],
    questions: int = 9,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the content of ``figures.json`` with its hash."""
    counts = {"runs": runs, "questions": questions, "missing": 0, "skipped": 0}
    return seal({**counts, "figures": figures, "notes": [], "inputs": {}, "options": {"k": [1], **(options or {})}})
