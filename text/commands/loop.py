"""``dpr-text loop``: train, encode, search, evaluate and mine in rounds. Repeat the command to continue after a stop.

``dpr-text loop --config=tiny`` runs the recipe ``tiny``, which comes with the package.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from text.commands.cli import RECIPES, pick_arguments
from text.commands.loop_flags import LoopFlags
from text.commands.stage_settings import resolve_settings
from text.errors import UsageError
from text.runs.loop import Loop
from text.runs.loop_inputs import LoopInputs
from text.runs.loop_steps import SECTIONS, LoopSteps
from text.runs.rounds import START, check_expected, compare_metrics

_NO_START = (
    "--require_improvement compares with the start encoder, which is not evaluated. Give a pretrained --encoder, and "
    "leave out --score_start=false."
)


def loop(flags: LoopFlags) -> None:
    """Run the stages that are not complete yet, and write and print the table."""
    from text.datasets import find_same_data
    from text.models import check_encoder_name
    from text.reports.loop_report import check_loop_report, format_markdown_table, write_loop_report
    from text.runs.folder_lock import lock_folder
    from text.runs.inputs import check_inputs

    folder, measures = Path(flags.output_dir), flags.table_measures
    check_encoder_name(flags.encoder)
    with lock_folder(folder):
        check_loop_report(folder)
        inputs = open_inputs(flags)
        build = partial(build_loop, flags, inputs)
        rehearsal = build(is_rehearsal=True)
        rounds = list(rehearsal.run_rounds().table)
        check_expected(flags.expected, rounds, measures)
        if flags.require_improvement and START not in rounds:
            raise UsageError(_NO_START)
        check_inputs(rehearsal.steps.stages, folder)
        print("\n".join(inputs.notes), end="\n" * bool(inputs.notes))
        notes = find_same_data({split: [judged.key] for split, judged in inputs.judged.items()})
        check_bm25(rehearsal)
        print(f"{len({stage.folder for stage in rehearsal.steps.stages})} stages in {folder}", flush=True)
        results = build().run_rounds()
        write_loop_report(folder, results, measures, notes)
    print("\n".join([format_markdown_table(results, measures), *notes]))
    for name, path in results.models.items():
        compared = results.comparisons.get(name)
        rejected = "" if compared is None or compared.is_accepted else " (rejected)"
        print(f"model of {name}{rejected}: {path}")
    print(f"table: {folder / 'table.md'}, with table.html, table.json, rounds.json and models.json next to it")
    if num_metrics := compare_metrics(results.table, flags.expected, flags.tolerance):
        print(f"all {num_metrics} metrics are as expected, tolerance {flags.tolerance}")
    if flags.require_improvement:
        print(results.check_improvement(measures[0]))


def open_inputs(flags: LoopFlags) -> LoopInputs:
    """Read and hash the input files."""
    open_files = LoopInputs.open_beir if flags.is_beir else LoopInputs.open
    arguments = pick_arguments(open_files, flags)
    arguments["data_path"] = flags.data_path.replace("{recipes}", str(RECIPES))
    return open_files(**arguments)


def check_bm25(rehearsal: Loop) -> None:
    """Check that the packages of BM25 are installed, if an incomplete stage searches with it."""
    from text.runs.stages import is_complete

    searches = [stage for stage in rehearsal.steps.stages if stage.command == "search" and stage.settings["bm25"]]
    if not all(map(is_complete, searches)):
        import text.retrieval.bm25  # noqa: F401


def build_loop(flags: LoopFlags, inputs: LoopInputs, *, is_rehearsal: bool = False) -> Loop:
    """Build the loop. A rehearsal plans the stages and runs none."""
    import torch

    steps = LoopSteps(
        inputs,
        arguments={name: getattr(flags, name) for name in SECTIONS},
        measures=flags.table_measures,
        output_dir=flags.output_dir,
        resolve_settings=resolve_settings,
        num_gpus=torch.cuda.device_count(),
        is_rehearsal=is_rehearsal,
    )
    return Loop(**{**pick_arguments(Loop, flags), "steps": steps, "rounds": flags.parsed_rounds})
