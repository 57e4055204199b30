"""Rounds of training, encoding, search, evaluation and mining. Each step is a stage: a command in its own folder.

A round is accepted unless it is significantly worse on the validation questions than the last accepted model
(``text/runs/acceptance.py``). The next round mines with, and may start from, the last accepted model.

A stage whose folder is complete is not run again. An interrupted loop therefore continues where it stopped, and a loop
with a changed setting repeats only the stages that depend on this setting.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from text.runs.acceptance import Comparison, average_questions, compare_questions
from text.runs.loop_results import LoopResults
from text.runs.loop_steps import Encoded, Evaluated, LoopSteps
from text.runs.rounds import BM25, START, Round
from text.runs.seeds import SeedResult, SeedResults, average_metrics, choose_best
from text.runs.stages import Arguments
from text.runs.tracked import TrackedFile


class Loop:
    """All stages of a training loop.

    In a rehearsal, the steps run no stage. It plans all stages and detects invalid flags before hours of work.

    Args:
        steps: The steps, with the settings of all rounds.
        rounds: The rounds in order.
        encoder: Encoder to start from: the name of a randomly initialized encoder, or a path.
        score_start: Also evaluate the encoder before the first round. Ignored for a randomly initialized encoder.
        score_bm25: Also evaluate BM25.
        start_arguments: Flags of encode for the encoder before the first round.
        seeds: Seeds of training. Each round is trained once with each of them, and the seed with the best first measure
            on the validation questions goes on. Without seeds, a round is trained once.
    """

    def __init__(
        self,
        steps: LoopSteps,
        rounds: Sequence[Round],
        *,
        encoder: str = "tiny",
        score_start: bool = True,
        score_bm25: bool = True,
        start_arguments: Arguments,
        seeds: Sequence[int] = (),
    ) -> None:
        self.steps, self.rounds = steps, rounds
        self.encoder = TrackedFile.read(encoder) if os.path.exists(encoder) else encoder
        self.score_start, self.score_bm25, self.start_arguments = score_start, score_bm25, start_arguments
        self.seeds, self.seed_results = list(seeds), dict[str, SeedResults]()
        self.comparisons = dict[str, Comparison]()

    def run_rounds(self) -> LoopResults:
        """Run all stages that are not complete, and return the results of BM25, the start encoder and each round.

        In a rehearsal the table has no metrics.

        Raises:
            ArtifactError, SystemExit, InterruptedRun: A stage failed, see ``run_stage``.
        """
        self.steps.cut_windows()
        table = {BM25: self.steps.evaluate(BM25, None).metrics} if self.score_bm25 else {}
        model, start, models = None, None, {}
        if isinstance(self.encoder, TrackedFile) and self.score_start:
            model = self.steps.encode(START, self.encoder, self.start_arguments)
            models[START] = str(self.encoder)
            start = self.steps.evaluate(START, model)
            table[START] = start.metrics
        final, accepted = "", start
        for number, each in enumerate(self.rounds, start=1):
            name = f"round {number}"
            rows = self.steps.mine(name, each, model) if each.sources else self.steps.train_rows
            trained, result = self._run_round(name, each, rows, model)
            table[name], models[name] = result.metrics, str(trained.model)
            if self._accept(name, result, final or START, accepted):
                model, accepted, final = trained, result, name
        improvement = self._compare(accepted, START, start) if final and accepted is not None else None
        return LoopResults(table, models, self.seed_results, self.comparisons, final, improvement)

    def _compare(self, result: Evaluated, other: str, other_result: Evaluated | None) -> Comparison | None:
        """Compare two models on the validation questions. Return None in a rehearsal, and without a second model."""
        if other_result is None or self.steps.is_rehearsal:
            return None
        return compare_questions(result.values, other, other_result.values)

    def _accept(self, name: str, result: Evaluated, other: str, other_result: Evaluated | None) -> bool:
        """Compare a round with the last accepted model, and return whether the round replaces this model."""
        compared = self._compare(result, other, other_result)
        if compared is None:
            return True
        self.comparisons[name] = compared
        verdict = "accepted" if compared.is_accepted else f"rejected, {other} goes on"
        change = f"valid {self.steps.measures[0]} {compared.difference:+.4f}, p = {compared.p:.3g}"
        print(f"== {name} against {other}: {change}: {verdict}", flush=True)
        return compared.is_accepted

    def _run_round(
        self, name: str, settings: Round, rows: TrackedFile, previous: Encoded | None
    ) -> tuple[Encoded, Evaluated]:
        """Train and evaluate a round with each seed, and return the model that goes on, and the mean metrics."""
        encoder = previous.model if settings.go_on and previous is not None else self.encoder
        models, results = list[Encoded](), list[Evaluated]()
        for seed in self.seeds or [None]:
            title, extra = (name, {}) if seed is None else (f"{name}, seed {seed}", {"seed": seed})
            trained = self.steps.train(title, settings, rows, encoder, extra)
            models.append(self.steps.encode(title, trained, {}))
            results.append(self.steps.evaluate(title, models[-1]))
        metrics = [each.metrics for each in results]
        chosen = 0 if self.steps.is_rehearsal else choose_best(metrics, self.steps.measures[0])
        if self.seeds:
            found = zip(self.seeds, models, metrics, strict=True)
            by_seed = [SeedResult(seed, str(model.model), each) for seed, model, each in found]
            self.seed_results[name] = SeedResults(by_seed, self.seeds[chosen])
        values = average_questions([each.values for each in results])
        return models[chosen], Evaluated(average_metrics(metrics), values)
