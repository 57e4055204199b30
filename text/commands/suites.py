"""``dpr-text evaluate --suite``: evaluate a model on all BEIR folders of a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from text.commands.stage_settings import resolve_settings


def evaluate_suite(
    suite: str,
    model: str,
    output_dir: str,
    *,
    split: str,
    k: Sequence[int],
    encoder_precision: str | None,
    drop_self_matches: bool,
    seed: int,
) -> None:
    """Run the stages that are not complete yet, and write and print the table.

    Args:
        suite: Folder of the sets.
        model: Folder of the model.
        output_dir: Folder of all stages.
        split: Name of the judgments in ``qrels/``.
        k: Cut-offs of the metrics. Those of the table are added.
        encoder_precision: Precision of both encoders. None is the default of encode and search.
        drop_self_matches: Ignore passages that have the id of their question.
        seed: Seed of the bootstrap.
    """
    import torch

    from text.reports.suite_report import average_sets, check_suite_report, format_suite_table, write_suite_report
    from text.runs.folder_lock import lock_folder
    from text.runs.inputs import check_inputs
    from text.runs.rounds import find_cut_offs
    from text.runs.suites import MAIN_MEASURES, Suite, find_sets

    cut_offs = sorted({*k, *find_cut_offs(MAIN_MEASURES)})
    precision = {"encoder_precision": encoder_precision}
    options = {"drop_self_matches": drop_self_matches, "seed": seed}
    arguments = {"encode": {**precision, "dtype": "float32"}, "search": precision, "evaluate": options}
    with lock_folder(output_dir):
        check_suite_report(output_dir)
        runner = Suite(
            find_sets(suite, split),
            model,
            cut_offs=cut_offs,
            arguments=arguments,
            output_dir=output_dir,
            resolve_settings=resolve_settings,
            num_gpus=torch.cuda.device_count(),
        )
        stages = runner.plan()
        check_inputs(stages, output_dir)
        num_stages = len({stage.folder for stage in stages})
        print(f"{len(runner.sets)} sets, {num_stages} stages in {output_dir}", flush=True)
        results = list(runner.evaluate())
        mean = average_sets(results, seed=seed)
        given = {"k": cut_offs, **precision, **options}
        files = write_suite_report(
            output_dir, results, mean, model=model, revision=runner.model.key, split=split, settings=given
        )
    print(format_suite_table(results, mean))
    print(f"suite: {Path(output_dir, 'suite.html')}, with suite.json and suite.md next to it")
    print(f"results for mteb: {files[0].parent}")
