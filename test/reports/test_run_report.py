"""Report of training runs: its content, its notes about missing data, and escaped texts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from test.helpers import snapshot
from test.reports.helpers import HOSTILE, PageElements, build_figures, check_picture, write_sample_run
from text.artifacts import write_json
from text.errors import UsageError
from text.reports.pictures import MAX_POINTS, Curve, draw_curves
from text.reports.run_report import render_run_report, write_run_report
from text.runs.history import read_runs


@pytest.fixture
def sample_run(tmp_path: Path) -> Path:
    return write_sample_run(tmp_path / "made")


def render(*folders: Path) -> str:
    return render_run_report(read_runs(folders))


def test_the_same_run_gives_the_same_bytes(sample_run: Path, tmp_path: Path) -> None:
    path = write_run_report([sample_run])
    assert path == sample_run / "report.html"
    before, manifest = path.read_bytes(), (sample_run / "manifest.json").read_bytes()
    assert write_run_report([sample_run], tmp_path / "again.html").read_bytes() == before
    write_run_report([sample_run])
    assert path.read_bytes() == before
    assert (sample_run / "manifest.json").read_bytes() == manifest


def test_the_manifest_gets_the_hash_of_a_replaced_report(sample_run: Path, tmp_path: Path) -> None:
    other = write_sample_run(tmp_path / "other", scale=2.0)
    write_run_report([sample_run, other])
    facts = json.loads((sample_run / "manifest.json").read_text())["files"]["report.html"]
    content = (sample_run / "report.html").read_bytes()
    assert facts == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert not (other / "report.html").exists()
    before = (sample_run / "manifest.json").read_bytes()
    write_run_report([sample_run], tmp_path / "elsewhere" / "report.html")
    assert (tmp_path / "elsewhere" / "report.html").exists()
    assert (sample_run / "manifest.json").read_bytes() == before


def test_a_page_replaces_no_other_file_of_a_run(sample_run: Path, tmp_path: Path) -> None:
    other = write_sample_run(tmp_path / "other")
    before = snapshot(tmp_path)
    for output in (sample_run / "metrics.csv", sample_run / "new.html", other / "model" / "report.html"):
        with pytest.raises(UsageError, match=f"^{output} "):
            write_run_report([sample_run, other], output)
    assert snapshot(tmp_path) == before
    assert write_run_report([sample_run, other], other / "report.html").exists()


def test_a_page_that_is_not_a_report_is_not_replaced(sample_run: Path, tmp_path: Path) -> None:
    for path, output in ((sample_run / "report.html", None), (tmp_path / "page.html", tmp_path / "page.html")):
        path.write_text("<html>of a user</html>")
        with pytest.raises(FileExistsError, match=str(path)):
            write_run_report([sample_run], output)
        assert path.read_text() == "<html>of a user</html>"
        path.unlink()
        write_run_report([sample_run], output)
        before = path.read_bytes()
        assert write_run_report([sample_run], output).read_bytes() == before


def test_a_page_is_self_contained_and_has_no_script(sample_run: Path, tmp_path: Path) -> None:
    elements = PageElements(render(sample_run, write_sample_run(tmp_path / "other")))
    assert "default-src 'none'; style-src 'unsafe-inline'" in elements.values("content")
    assert not {"script", "img", "link", "iframe", "object"} & set(elements.names)
    assert not elements.values("src") and not any(name.startswith("on") for name, _ in elements.attributes)
    assert all(target.startswith("#") for target in (*elements.values("href"), *elements.values("xlink:href")))


def test_ids_are_unique_and_every_plot_has_a_description(sample_run: Path, tmp_path: Path) -> None:
    page = render(sample_run, write_sample_run(tmp_path / "other"))
    elements = PageElements(page)
    ids = elements.values("id")
    assert len(ids) == len(set(ids)) > 100
    assert set(re.findall(r"url\(#([^)]+)\)", page)) <= set(ids)
    assert {target[1:] for target in elements.values("xlink:href")} <= set(ids)
    assert elements.names.count("svg") == elements.values("role").count("img") == len(elements.values("aria-label"))
    assert all(len(description) > 20 for description in elements.values("aria-label"))


def test_hostile_names_and_texts_are_escaped(tmp_path: Path) -> None:
    folder = write_sample_run(tmp_path / HOSTILE.replace("/", ":"), question=HOSTILE, title=HOSTILE)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").write_text(yaml.safe_dump({**settings, HOSTILE: HOSTILE}))
    (folder / "evaluation").mkdir()
    row = {"mean": 0.5, "low": 0.4, "high": 0.6, "other": 0.3}
    figures = build_figures({"recall@1": row, "recall@5": row}, runs=[HOSTILE, HOSTILE])
    (folder / "evaluation" / "figures.json").write_text(json.dumps(figures))
    for folders in ([folder], [folder, write_sample_run(tmp_path / "plain")]):
        page = render(*folders)
        elements = PageElements(page)
        assert not {"script", "img"} & set(elements.names)
        assert not elements.values("onerror")
        assert HOSTILE in elements.text
        assert f"data/{HOSTILE}.jsonl" in elements.text
        assert "<script" not in page and "<img" not in page


def test_two_runs_have_their_own_colors_names_and_settings(sample_run: Path, tmp_path: Path) -> None:
    page = render(sample_run, write_sample_run(tmp_path / "other", scale=2.0))
    assert "var(--run-0)" in page and "var(--run-1)" in page
    text = PageElements(page).text
    assert "Worst validation questions: made" in text and "Worst validation questions: other" in text
    assert re.search(r"train_loss_step of other from 2 at step 0 to 0.3333 at step 5", page)
    assert re.search(
        r"<td>learning_rate</td><td>1.0</td><td>2.0</td>", page
    )  # Different settings are shown in a table.


def test_a_page_shows_the_values_of_a_run(sample_run: Path) -> None:
    text = PageElements(render(sample_run)).text
    for words in (
        "6 steps, epoch 3 of 3",
        "mrr@10 0.5 at step 3",
        "0.6250",
        "4,321",
        "7 blank question",
        "1,234",
        "after 6 steps",
        "clipped to 2",
        "4 questions, median 6 tokens, longest 9; 25.00% are longer than the limit of 8",
    ):
        assert words in text, words


def remove_files(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return change


def remove_validations(folder: Path) -> None:
    (folder / "worst_questions.jsonl").unlink()
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join(lines[:7]))


@pytest.mark.parametrize(
    ("change", "notes"),
    [
        (remove_files("manifest.json"), ["; not finished", "Not tested", "Shown when the run has finished"]),
        (remove_validations, ["No validation yet", "Not logged: MRR@10, Average rank, Recall@1, Recall@5"]),
        (remove_files("speed.csv"), ["Not logged: Examples per second, Padding."]),
        (remove_files("lengths.json"), ["Not measured."]),
        (remove_files("metrics.csv", "speed.csv"), ["no step logged yet", "Not logged: Loss, Learning rate"]),
        (lambda folder: (folder / "worst_questions.jsonl").write_text(""), ["The positive of every question ranks"]),
        (
            remove_files("manifest.json", "metrics.csv", "speed.csv", "lengths.json", "worst_questions.jsonl"),
            ["no step logged yet", "gradient_clip_val"],
        ),
    ],
)
def test_a_page_names_missing_content(sample_run: Path, change: Callable[[Path], Any], notes: list[str]) -> None:
    change(sample_run)
    text = PageElements(render(sample_run)).text
    for words in (*notes, "Not evaluated"):
        assert words in text


def test_nan_and_infinite_values_are_counted(sample_run: Path) -> None:
    lines = (sample_run / "metrics.csv").read_text().splitlines()
    cells = [line.split(",") for line in lines]
    cells[3][3], cells[4][3] = "inf", "nan"  # gradient_norm of steps 2 and 3
    cells[-1][5] = "nan"  # the last valid_loss
    (sample_run / "metrics.csv").write_text("".join(",".join(line) + "\n" for line in cells))
    text = PageElements(render(sample_run)).text
    assert "gradient_norm: 2 NaN or infinite, first at step 2" in text
    assert "valid_loss: 1 NaN or infinite, first at step 5" in text


def test_an_incomplete_line_of_a_metrics_file_is_ignored(sample_run: Path) -> None:
    whole = render(sample_run)
    with open(sample_run / "metrics.csv", "a") as file:
        file.write("3,7,0.0")
    assert render(sample_run) == whole


def test_the_recall_plot_shows_the_compared_run(sample_run: Path) -> None:
    table = {f"recall@{k}": {"mean": 0.4 + k / 200, "low": 0.3, "high": 0.95, "other": 0.25} for k in (1, 10, 100)}
    figures = build_figures(table, runs=["run.trec", "bm25.trec"], questions=99)
    write_json(sample_run / "evaluation" / "figures.json", figures)
    page = render(sample_run)
    lines = [("made, 99 questions: run.trec (model unknown)", 0, False), ("made, 99 questions: bm25.trec", 0, True)]
    section = find_section(page, "Retrieval in the whole collection")
    check_picture(section, axes=("k", "recall@k"), lines=lines)
    assert "0.405 at 1 (other run 0.250)" in PageElements(section).values("aria-label")[0]


def find_section(page: str, heading: str) -> str:
    [section] = [
        each for each in re.findall(r"<section>.*?</section>", page, re.DOTALL) if f"<h2>{heading}</h2>" in each
    ]
    return section


def test_plots_of_two_runs_have_a_legend_and_axis_labels(sample_run: Path, tmp_path: Path) -> None:
    page = render(sample_run, write_sample_run(tmp_path / "other"))
    for heading in ("Training", "Validation", "Embedding collapse", "Lengths of training texts"):
        section = find_section(page, heading)
        keys = re.findall(r'<span class="key" style="border-color: var\(--run-(\d)\)"></span>(\w+)', section)
        assert keys == [("0", "made"), ("1", "other")]
        assert section.index('class="legend"') < section.index("<svg")
        is_lengths = heading.startswith("Lengths")
        for title, picture in re.findall(r"<figcaption><b>([^<]*)</b>.*?(<svg.*?</svg>)", section, re.DOTALL):
            names = {"tokens", "share of texts"} if is_lengths else {"step", title}
            assert names <= set(re.findall(r"<text [^>]*>([^<]*)</text>", picture)), title
    assert 'class="legend"' not in render(sample_run)


def test_a_shared_limit_of_two_runs_has_its_own_color(sample_run: Path, tmp_path: Path) -> None:
    one = find_section(render(sample_run, write_sample_run(tmp_path / "other")), "Training")
    limit = r"stroke-dasharray[^\"]*; stroke: var\(--error\)"
    assert one.count("dashed: clipped to 2<") == len(re.findall(limit, one)) == 1
    other = tmp_path / "third"
    write_sample_run(other)
    settings = yaml.safe_load((other / "config.yaml").read_text())
    (other / "config.yaml").write_text(yaml.safe_dump({**settings, "gradient_clip_val": 3.0}))
    two = find_section(render(sample_run, other), "Training")
    assert "dashed: clipped to 2, 3<" in two and "var(--error)" not in two


def test_a_long_curve_is_reduced_to_means() -> None:
    steps = [*range(100 * MAX_POINTS)]
    curve = Curve(0, steps, [float(step % 2) for step in steps])
    picture = draw_curves("id", "description", [curve], y_label="loss", last_step=len(steps))
    assert len(picture) < 40_000
    assert len({y for y in re.findall(r"^L [\d.]+ ([\d.]+)", picture, flags=re.MULTILINE) if y != "0"}) < 60
