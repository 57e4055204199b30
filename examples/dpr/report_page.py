"""The page of a report: what runs left, as pictures and tables in one HTML file that needs no other.

Whatever names and texts hold is shown as text. What a run does not have is left out, and said.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import numpy as np

from examples.dpr.report_pictures import NUM_COLOURS, Curve, at_each_k, draw_curves, draw_lengths, draw_recall
from examples.dpr.run_files import Run

_MOST_CHARACTERS = 900
"""Of a passage's text."""
_GLIMPSE = 160
"""Of the text of one that is not the first above a question's own."""
_LOWER_IS_BETTER = ("valid_loss", "valid_average_rank")

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --dim: #626a73; --line: #dcdfe3; --paper: #fff; --limit: #b3261e;
  --run-0: #2f6db5; --run-1: #c8591b; --run-2: #23824a; --run-3: #8a3ea8; --run-4: #a3790a; --run-5: #0f8490; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e6e9; --dim: #9aa2ab; --line: #363b42; --paper: #15181c;
  --limit: #ff8a80; --run-0: #7fb2ee; --run-1: #f2975c; --run-2: #6cc48d; --run-3: #cd94e4; --run-4: #d9b64a;
  --run-5: #5cc5d0; } }
@media print { :root { color-scheme: light; --ink: #000; --dim: #444; --line: #ccc; --paper: #fff; --limit: #b3261e;
  --run-0: #2f6db5; --run-1: #c8591b; --run-2: #23824a; --run-3: #8a3ea8; --run-4: #a3790a; --run-5: #0f8490; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 74rem; padding: 2.5rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.7rem; font-weight: 650; letter-spacing: -.01em; line-height: 1.25; margin: 0 0 1.2rem;
  overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; font-weight: 650; margin: 2.8rem 0 .9rem; padding-top: .7rem;
  border-top: 1px solid var(--line); }
h3 { font-size: .95rem; font-weight: 600; margin: 1.6rem 0 .4rem; overflow-wrap: anywhere; }
p { margin: .3rem 0; max-width: 46rem; }
.dim, .note { color: var(--dim); }
.note { font-size: .85rem; }
.warn { color: var(--limit); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1.3rem 1.8rem; }
figure { margin: 0; break-inside: avoid; }
figcaption { font-size: .82rem; line-height: 1.4; min-height: 2.45rem; margin-bottom: .3rem; color: var(--dim); }
figcaption b { display: block; color: var(--ink); font-weight: 600; font-size: .92rem; }
svg { display: block; width: 100%; height: auto; stroke-linejoin: round; }
svg text { font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .32rem 1.4rem .32rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
thead th { color: var(--dim); font-weight: 500; font-size: .82rem; }
td.number, th.number { text-align: right; }
.chip { display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: .5em; }
.settings { columns: 19rem; column-gap: 2rem; font-size: .86rem; margin: 0; }
.settings div { display: flex; justify-content: space-between; gap: 1rem; break-inside: avoid;
  border-bottom: 1px solid var(--line); padding: .18rem 0; }
.settings dt { color: var(--dim); }
.settings dd { margin: 0; text-align: right; overflow-wrap: anywhere; }
.worst { width: 100%; table-layout: fixed; line-height: 1.42; }
.worst th:first-child, .worst td:first-child { width: 5rem; text-align: right; }
.worst th:nth-child(2) { width: 19%; }
.worst th:nth-child(3) { width: 36%; }
.worst td { overflow-wrap: anywhere; }
.worst .passage + .passage { margin-top: .7rem; }
.worst .score { color: var(--dim); font-size: .82em; margin-left: .4em; }
.worst b { font-weight: 600; }
@media (max-width: 44rem) {
  body { padding: 1.5rem 1rem 3rem; }
  table:not(.worst) :is(th, td) { white-space: nowrap; }
  .worst, .worst tbody, .worst tr, .worst td { display: block; width: auto !important; text-align: left !important; }
  .worst thead { display: none; }
  .worst tr { border-bottom: 1px solid var(--line); padding: .6rem 0; }
  .worst td { border: 0; padding: .2rem 0; }
  .worst td::before { content: attr(data-head); display: block; color: var(--dim); font-size: .78rem; }
}
@media print { body { max-width: none; padding: 0; font-size: 10pt; }
  tr { break-inside: avoid; } .worst tr { break-inside: auto; } .worst { font-size: 8.5pt; }
  .grid { grid-template-columns: repeat(3, 1fr); gap: .8rem 1rem; } h2 { break-after: avoid; } }
"""


class Panel(NamedTuple):
    """One picture over the steps, of all runs."""

    title: str
    note: str
    columns: tuple[str, ...]
    """The first is drawn faintly where there is a second."""
    between: tuple[float | None, float | None] = (None, None)
    limit: str | None = None
    """The setting that is drawn as a line."""


PANELS = {
    "Training": (
        Panel("Loss", "in nats; pale: training, dotted: validation", ("train_loss_step", "valid_loss")),
        Panel("Learning rate", "", ("learning_rate",), (0, None)),
        Panel(
            "Gradient norm", "before clipping; dashed: clipped to", ("gradient_norm",), (0, None), "gradient_clip_val"
        ),
        Panel("Examples per second", "questions; validations not counted", ("examples/s",), (0, None)),
        Panel("Padding", "share of what is embedded", ("padding",), (0, None)),
    ),
    "Validation": (
        Panel("MRR@10", "higher is better", ("valid_mrr@10",), (0, 1.02)),
        Panel("Average rank", "counted from 0; lower is better", ("valid_average_rank",), (0, None)),
        *(Panel(f"Recall@{k}", "", (f"valid_recall@{k}",), (0, 1.02)) for k in (1, 5, 20, 100)),
    ),
    "Signs of a collapse": (
        Panel("Cosine of random passages", "near 1: all are alike", ("valid_passage_cosine",), (None, 1.02)),
        Panel("Norm of passages", "mean length of an embedding", ("valid_passage_norm",), (0, None)),
    ),
}


def page(runs: Sequence[Run]) -> str:
    """The report of one run, or of several over one another.

    The same runs give the same characters.
    """
    title = ", ".join(run.name for run in runs)
    sections = [
        _overview(runs),
        *(_section(name, _panels(name, panels, runs)) for name, panels in PANELS.items()),
        _section("Recall in the collection", _recall(runs)),
        _section("Lengths of the training texts", _lengths(runs)),
        *(_section(f"Worst validation questions{_of(run, runs)}", _worst(run)) for run in runs),
        _section("Test", _test(runs)),
        _section("Data", _data(runs)),
        _section("Settings", _settings(runs)),
        _section("Versions", _versions(runs)),
    ]
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{chr(10).join(sections)}
</body>
</html>
"""


# ---- sections: each a heading and what stands under it


def _overview(runs: Sequence[Run]) -> str:
    """A row for each run, which is the legend of the pictures, too."""
    heads = ["run", "came to", "training loss", "best validation", "test MRR@10"]
    rows = [
        [_chip(number) + escape(run.name), *map(escape, (_progress(run), _last_loss(run), _best(run), _tested(run)))]
        for number, run in enumerate(runs)
    ]
    return _table(heads, rows)


def _panels(section: str, panels: Sequence[Panel], runs: Sequence[Run]) -> str:
    last_step = max((int(row["step"]) for run in runs for row in run.rows), default=0)
    pictures, absent = [], []
    for panel in panels:
        curves = [
            Curve(number, *run.series(column), is_faint=len(panel.columns) > 1 and column == panel.columns[0])
            for number, run in enumerate(runs)
            for column in panel.columns
            if any(map(math.isfinite, run.series(column).values))
        ]
        if not curves:
            absent.append(panel.title)
            continue
        limits = [
            (number, float(run.settings[panel.limit]))
            for number, run in enumerate(runs)
            if panel.limit is not None and run.settings.get(panel.limit)
        ]
        if len({height for _, height in limits}) == 1:
            limits = limits[:1]
        picture = draw_curves(
            _key(section, panel.title),
            f"{panel.title}: {_curves_in_words(panel, runs)}",
            curves,
            last_step=last_step,
            limits=limits,
            between=panel.between,
        )
        note = f"{panel.note} {limits[0][1]:g}" if limits else panel.note.partition("; dashed")[0]
        pictures.append(_figure(panel.title, note, picture, _not_finite(panel, runs)))
    return _grid(pictures) + (_note(f"Not logged: {', '.join(absent)}.") if absent else "")


def _recall(runs: Sequence[Run]) -> str:
    tables = {number: run.evaluation for number, run in enumerate(runs) if run.evaluation is not None}
    if not tables:
        return _note("Not evaluated: evaluate.py --output_dir=RUN/evaluation leaves here what this picture shows.")
    pictures = []
    for measure in ("recall", "accuracy"):
        of_measure = {n: table["figures"] for n, table in tables.items() if at_each_k(table["figures"], measure)}
        if of_measure:
            words = "; ".join(f"{runs[n].name}: {_recall_in_words(rows, measure)}" for n, rows in of_measure.items())
            picture = draw_recall(_key("recall", measure), f"{measure} at k: {words}", of_measure, measure)
            pictures.append(_figure(f"{measure.capitalize()}@k", "over k, with 95 % intervals", picture))
    return _grid(pictures) + "".join(_note(_evaluated(runs[n], table)) for n, table in tables.items())


def _lengths(runs: Sequence[Run]) -> str:
    pictures = []
    for place, kind in enumerate(("questions", "passages")):
        of_kind = {number: run.lengths[place] for number, run in enumerate(runs) if run.lengths}
        if of_kind:
            words = [f"{runs[n].name}: {_lengths_in_words(lengths)}" for n, lengths in of_kind.items()]
            picture = draw_lengths(_key("lengths", kind), f"Lengths of {kind}: {'; '.join(words)}", of_kind)
            figure = _figure(kind.capitalize(), "share of texts by tokens; dashed: the limit", picture)
            shown = words if len(runs) > 1 else [_lengths_in_words(of_kind[0])]
            pictures.append(figure + "".join(map(_note, shown)))
    return _grid(pictures) if pictures else _note("Not measured.")


def _worst(run: Run) -> str:
    if run.worst is None:
        return _note("No validation yet.")
    if not run.worst:
        return _note("None: every question's own passage ranks first.")
    rows = [
        [
            f"{row['num_above']:,}",
            f"<b>{escape(row['question'])}</b>" + _answers(row["answers"]),
            _passage(row["positive"]),
            "".join(
                _passage(passage, _GLIMPSE if place else _MOST_CHARACTERS) for place, passage in enumerate(row["above"])
            ),
        ]
        for row in run.worst
    ]
    note = (
        f"At the last validation, after {run.worst[0]['step']:,} steps: the questions with the most passages above "
        "their own, and the first of these. Beside titles stand scores."
    )
    heads = ["passages above", "question", "its passage", "ranked above it"]
    return _note(note) + _table(heads, rows, kind="worst")


def _test(runs: Sequence[Run]) -> str:
    tested = {number: run.manifest.get("test", {}) for number, run in enumerate(runs)}
    names = list(dict.fromkeys(name for figures in tested.values() for name in figures))
    if not names:
        return _note("Not tested: the run has not come to its end.")
    rows = [
        [escape(name.removeprefix("test_")), *(_number(figures.get(name)) for figures in tested.values())]
        for name in names
    ]
    return _table(["figure", *_heads(runs)], rows, numbers=True)


def _data(runs: Sequence[Run]) -> str:
    rows = [
        [
            _chip(number, show=len(runs) > 1) + escape(stage),
            "<br>".join(escape(file["path"]) for file in data["files"]),
            f"{data['questions']:,}",
            _counts(data.get("rows_skipped_because", {})),
            _counts(data["found"]),
        ]
        for number, run in enumerate(runs)
        for stage, data in run.manifest.get("data", {}).items()
    ]
    if not rows:
        return _note("Told when the run has come to its end; the settings say where it is.")
    return _table(["split", "files", "questions", "rows left out", "found"], rows)


def _settings(runs: Sequence[Run]) -> str:
    names = list(dict.fromkeys(name for run in runs for name in run.settings))
    differ = [name for name in names if len({repr(run.settings.get(name)) for run in runs}) > 1]
    pairs = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(_setting(runs[0].settings.get(name)))}</dd></div>"
        for name in names
        if name not in differ
    )
    rows = [[escape(name), *(escape(_setting(run.settings.get(name))) for run in runs)] for name in differ]
    different = _table(["setting", *_heads(runs)], rows) + "<h3>The same for all</h3>" if rows else ""
    return different + f'<dl class="settings">{"".join(pairs)}</dl>'


def _versions(runs: Sequence[Run]) -> str:
    versions = [run.manifest.get("versions", {}) for run in runs]
    names = list(dict.fromkeys(name for of_run in versions for name in of_run))
    if not names:
        return _note("Told when the run has come to its end.")
    rows = [[escape(name), *(escape(str(of_run.get(name) or "–")) for of_run in versions)] for name in names]
    return _table(["package", *_heads(runs)], rows)


# ---- what a run came to, in a few words


def _progress(run: Run) -> str:
    trained = [row for row in run.rows if "train_loss_step" in row]
    if not trained:
        return "no step logged yet"
    came_to = f"{int(trained[-1]['step']) + 1:,} steps, epoch {int(trained[-1]['epoch']) + 1}"
    asked = run.settings.get("max_epochs")
    return came_to + (f" of {asked}" if asked else "") + ("" if run.manifest else "; not ended")


def _last_loss(run: Run) -> str:
    values = run.series("train_loss_step").values
    return f"{values[-1]:.4g}" if values else "–"


def _best(run: Run) -> str:
    monitor = str(run.settings.get("monitor", "valid_mrr@10"))
    pairs = [pair for pair in zip(*run.series(monitor), strict=True) if math.isfinite(pair[1])]
    if not pairs:
        return "–"
    sign = -1 if monitor in _LOWER_IS_BETTER else 1
    step, value = max(pairs, key=lambda pair: sign * pair[1])  # of equal ones the first, which is kept
    return f"{monitor.removeprefix('valid_')} {value:.4g} at step {step}"


def _tested(run: Run) -> str:
    return _number(run.manifest.get("test", {}).get("test_mrr@10"))


def _not_finite(panel: Panel, runs: Sequence[Run]) -> str:
    faults = [
        (run.name, column, steps)
        for run in runs
        for column in panel.columns
        if (steps := run.series(column).not_finite)
    ]
    return "; ".join(
        f"{name if len(runs) > 1 else column}: {len(steps)} NaN or infinite, first at step {steps[0]}"
        for name, column, steps in faults
    )


def _curves_in_words(panel: Panel, runs: Sequence[Run]) -> str:
    words = []
    for run in runs:
        for column in panel.columns:
            steps, values = run.series(column)
            if steps:
                first, last = (f"{values[end]:.4g} at step {steps[end]}" for end in (0, -1))
                words.append(f"{column} of {run.name} from {first} to {last}")
    return "; ".join(words)


def _recall_in_words(table: Mapping[str, Mapping[str, float]], measure: str) -> str:
    return ", ".join(
        f"{row['mean']:.3f} at {k}" + (f" (other run {row['other']:.3f})" if "other" in row else "")
        for k, row in at_each_k(table, measure)
    )


def _lengths_in_words(lengths: Any) -> str:
    kind, tokens, limit = lengths
    middle, longest = np.percentile(tokens, [50, 100]).astype(int)
    return (
        f"{len(tokens):,} {kind}, median {middle} tokens, longest {longest}; "
        f"{(tokens > limit).mean():.2%} are longer than the limit of {limit}"
    )


def _evaluated(run: Run, table: Mapping[str, Any]) -> str:
    drawn = [f"{style}: {name}" for style, name in zip(("solid", "dashed"), table["runs"], strict=False)]
    return "; ".join([f"{run.name}, {table['questions']:,} questions", *drawn])


def _of(run: Run, runs: Sequence[Run]) -> str:
    return f": {run.name}" if len(runs) > 1 else ""


def _counts(counts: Mapping[str, int]) -> str:
    return "<br>".join(f"{count:,} {escape(reason)}" for reason, count in counts.items()) or "–"


def _setting(value: Any) -> str:
    return "–" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


# ---- elements; those that take cells take HTML, the others take text


def _section(heading: str, content: str) -> str:
    return f"<section>\n<h2>{escape(heading)}</h2>\n{content}\n</section>"


def _grid(figures: Iterable[str]) -> str:
    return f'<div class="grid">\n{chr(10).join(f"<div>{figure}</div>" for figure in figures)}\n</div>'


def _figure(title: str, note: str, picture: str, warning: str = "") -> str:
    warned = f' <span class="warn">{escape(warning)}</span>' if warning else ""
    return f"<figure><figcaption><b>{escape(title)}</b> {escape(note)}{warned}</figcaption>\n{picture}</figure>"


def _note(sentence: str) -> str:
    return f'<p class="note">{escape(sentence)}</p>'


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False, kind: str = "") -> str:
    def row(cells: Sequence[str], tag: str) -> Iterator[str]:
        for number, (head, cell) in enumerate(zip(heads, cells, strict=True)):
            look = ' class="number"' if numbers and number else ""
            label = f' data-head="{escape(head)}"' if kind and tag == "td" else ""
            yield f"<{tag}{look}{label}>{cell}</{tag}>"

    body = "\n".join(f"<tr>{''.join(row(cells, 'td'))}</tr>" for cells in rows)
    head = f"<thead><tr>{''.join(row([escape(head) for head in heads], 'th'))}</tr></thead>"
    return f'<div class="scroll"><table class="{kind}">{head}\n<tbody>\n{body}\n</tbody></table></div>'


def _heads(runs: Sequence[Run]) -> list[str]:
    return [run.name for run in runs] if len(runs) > 1 else ["value"]


def _passage(passage: Mapping[str, Any], most: int = _MOST_CHARACTERS) -> str:
    text = passage["text"]
    shown = text if len(text) <= most else text[:most].rstrip() + " …"
    title = f"<b>{escape(passage['title'])}</b>" if passage["title"] else ""
    return f'<div class="passage">{title}<span class="score">{passage["score"]:.4g}</span><br>{escape(shown)}</div>'


def _answers(answers: Sequence[str]) -> str:
    return f'<br><span class="dim">{escape("; ".join(answers))}</span>' if answers else ""


def _chip(run: int, *, show: bool = True) -> str:
    return f'<span class="chip" style="background: var(--run-{run % NUM_COLOURS})"></span>' if show else ""


def _key(*words: str) -> str:
    """A name that an id may have."""
    return "-".join("".join(c if c.isalnum() else "-" for c in word.lower()) for word in words)
