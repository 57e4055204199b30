"""``dpr-text evaluate --suite``: evaluate a model on all BEIR folders of a folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from text.runs.folder_lock import lock_folder


def evaluate_suite(
    suite: str,
    model: str,
    output_dir: str,
    *,
    split: str,
    k: Sequence[int],
    arguments: Mapping[str, Mapping[str, Any]],
    seed: int,
    resolve_settings: Callable[[str, Sequence[str]], Mapping[str, Any]],
) -> None:
    """Run the stages that are not complete yet, and write and print the table.

    Args:
        suite: Folder of the sets.
        model: Folder of the model.
        output_dir: Folder of all stages.
        split: Name of the judgments in ``qrels/``.
        k: Cut-offs of the metrics. Those of the table are added.
        arguments: Flags of encode, search and evaluate, by command.
        seed: Seed of the bootstrap.
        resolve_settings: Function that returns the values of all flags of a command.
    """
    import torch

    from text.reports.suite_report import average_sets, check_suite_report, format_suite_table, write_suite_report
    from text.runs.inputs import check_inputs
    from text.runs.rounds import find_cut_offs
    from text.runs.suites import MAIN_MEASURES, Suite, find_sets

    cut_offs = sorted({*k, *find_cut_offs(MAIN_MEASURES)})
    with lock_folder(output_dir):
        check_suite_report(output_dir)
        options = {"cut_offs": cut_offs, "arguments": arguments, "output_dir": output_dir}
        sets = find_sets(suite, split)
        runner = Suite(sets, model, **options, resolve_settings=resolve_settings, num_gpus=torch.cuda.device_count())
        stages = runner.plan()
        check_inputs(stages, output_dir)
        print(f"{len(sets)} sets, {len({stage.folder for stage in stages})} stages in {output_dir}", flush=True)
        results = list(runner.evaluate())
        mean = average_sets(results, seed=seed)
        given = {"k": cut_offs, "seed": seed, **{name: dict(value) for name, value in arguments.items()}}
        files = write_suite_report(
            output_dir, results, mean, model=model, revision=runner.model.key, split=split, settings=given
        )
    print(format_suite_table(results, mean))
    print(f"suite: {Path(output_dir, 'suite.html')}, with suite.json and suite.md next to it; {files[0].parent}")
