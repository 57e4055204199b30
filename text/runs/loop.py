"""Rounds of training, encoding, search, evaluation and mining. Each step is a stage: a command in its own folder.

A round is accepted unless it is significantly worse on the validation questions than the last accepted model
(``text/runs/acceptance.py``). The next round mines with, and may start from, the last accepted model.

A stage whose folder is complete is not run again. An interrupted loop therefore continues where it stopped, and a loop
with a changed setting repeats only the stages that depend on this setting.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from text.retrieval.row_scores import SCORE_KEY
from text.runs.acceptance import Comparison, QuestionValues, average_questions, compare_questions
from text.runs.loop_results import LoopResults
from text.runs.loop_steps import Encoded, Evaluated, LoopSteps
from text.runs.rounds import BM25, FUSED, RERANKED, START, Round, RoundMetrics
from text.runs.seeds import SeedResult, SeedResults, SplitMetrics, average_metrics, choose_best
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
        bm25: Also evaluate BM25.
        hybrid: Also evaluate each model fused with BM25. Needs ``bm25``.
        teacher: Folder of a reranker or bi-encoder whose scores the rounds learn from. If ``steps`` have flags for a
            reranker, they train it on the rows of the first round instead.
        rerank_k: Also evaluate each model with this many passages per question reranked by the teacher.
        start: Flags of encode for the encoder before the first round.
        seeds: Seeds of training. Each round is trained once with each of them, and the seed with the best first measure
            on the validation questions is chosen. Without seeds, a round is trained once.
    """

    def __init__(
        self,
        steps: LoopSteps,
        rounds: Sequence[Round],
        *,
        encoder: str = "tiny",
        score_start: bool = True,
        bm25: bool = True,
        hybrid: bool = False,
        teacher: str | None = None,
        rerank_k: int | None = None,
        start: Arguments,
        seeds: Sequence[int] = (),
    ) -> None:
        self.steps, self.rounds = steps, rounds
        self.encoder = TrackedFile.read(encoder) if os.path.exists(encoder) else encoder
        self.score_start, self.score_bm25, self.start_arguments = score_start, bm25, start
        self.hybrid, self.bm25 = hybrid, None
        self.teacher = None if teacher is None else TrackedFile.read(teacher)
        self.rerank_k = rerank_k
        self.seeds, self.seed_results = list(seeds), dict[str, SeedResults]()
        self.comparisons, self.table = dict[str, Comparison](), RoundMetrics()

    def run_rounds(self) -> LoopResults:
        """Run all stages that are not complete, and return the results of BM25, the start encoder and each round.

        In a rehearsal the table has no metrics.

        Raises:
            ArtifactError, SystemExit, InterruptedRun: A stage failed, see ``run_stage``.
        """
        self.steps.cut_windows()
        if self.score_bm25:
            self.bm25 = self.steps.evaluate(BM25, None)
            self.table[BM25] = self.bm25.metrics
        model, start, final, models = None, None, "", {}
        if isinstance(self.encoder, TrackedFile) and self.score_start:
            encoded = self.steps.encode(START, self.encoder, self.start_arguments)
            model, results = self._evaluate_model(START, encoded)
            self.table |= {f"{START}{end}": each.metrics for end, each in results.items()}
            start, models[START] = results[""].values, str(self.encoder)
        accepted = start
        for number, each in enumerate(self.rounds, start=1):
            name = f"round {number}"
            rows = self._prepare_rows(name, each, model)
            trained, values = self._run_round(name, each, rows, model)
            models[name] = str(trained.model)
            if self._accept(name, values, final or START, accepted):
                model, accepted, final = trained, values, name
        improvement = self._compare(accepted, START, start) if final and accepted is not None else None
        return LoopResults(self.table, models, self.seed_results, self.comparisons, final, improvement)

    def _compare(self, values: QuestionValues, other: str, other_values: QuestionValues | None) -> Comparison | None:
        """Compare two models on the validation questions. Return None in a rehearsal, and without a second model."""
        if other_values is None or self.steps.is_rehearsal:
            return None
        return compare_questions(values, other, other_values)

    def _accept(self, name: str, values: QuestionValues, other: str, other_values: QuestionValues | None) -> bool:
        """Compare a round with the last accepted model, and return whether the round replaces this model."""
        compared = self._compare(values, other, other_values)
        if compared is None:
            return True
        self.comparisons[name] = compared
        verdict = "accepted" if compared.is_accepted else f"rejected, {other} is kept"
        change = f"valid {self.steps.measures[0]} {compared.difference:+.4f}, p = {compared.p:.3g}"
        print(f"== {name} against {other}: {change}: {verdict}", flush=True)
        return compared.is_accepted

    def _prepare_rows(self, name: str, settings: Round, model: Encoded | None) -> TrackedFile:
        """Mine the rows of a round, train the reranker on them if there is none yet, and add the teacher's scores."""
        rows, is_scored = self.steps.train_rows, False
        if settings.sources:
            is_scored = self.teacher is not None and self.steps.mines_with_teacher(settings)
            rows = self.steps.mine(name, settings, model, self.teacher if is_scored else None)
        if self.steps.arguments["reranker"] and self.teacher is None:
            self.teacher = self.steps.train_reranker(f"{name}, reranker", rows, self.encoder)
        if self.teacher is not None and not is_scored and self.steps.learns_from_teacher(settings):
            rows = self.steps.score(name, rows, self.teacher)
        return rows

    def _run_round(
        self, name: str, settings: Round, rows: TrackedFile, previous: Encoded | None
    ) -> tuple[Encoded, QuestionValues]:
        """Train and evaluate a round with each seed.

        Returns:
            The model of the chosen seed, and the mean of the first measure for each validation question.
        """
        encoder = previous.model if settings.go_on and previous is not None else self.encoder
        is_taught = self.teacher is not None and self.steps.learns_from_teacher(settings)
        teaching = {"score_key": SCORE_KEY} if is_taught else {}
        models, results = list[Encoded](), list[dict[str, Evaluated]]()
        for seed in self.seeds or [None]:
            title, extra = (name, {}) if seed is None else (f"{name}, seed {seed}", {"seed": seed})
            trained = self.steps.train(title, settings, rows, encoder, {**teaching, **extra})
            model, evaluated = self._evaluate_model(title, self.steps.encode(title, trained, {}))
            models.append(model)
            results.append(evaluated)
        alone = [each[""] for each in results]
        measure = self.steps.measures[0]
        chosen = 0 if self.steps.is_rehearsal else choose_best([each.metrics for each in alone], measure)
        for end in results[0]:
            self._add_row(f"{name}{end}", models, [each[end].metrics for each in results], chosen)
        return models[chosen], average_questions([each.values for each in alone])

    def _evaluate_model(self, title: str, model: Encoded) -> tuple[Encoded, dict[str, Evaluated]]:
        """Evaluate a model alone, and fused with BM25. Each key ends the name of a row of the table."""
        results = {"": self.steps.evaluate(title, model)}
        if self.hybrid and self.bm25 is not None:
            results[FUSED], fusion = self.steps.fuse(title, results[""], self.bm25)
            model = model._replace(fusion=fusion)
        if self.teacher is not None and self.rerank_k is not None:
            results[RERANKED] = self.steps.rerank(title, model, self.teacher, self.rerank_k)
        return model, results

    def _add_row(self, name: str, models: Sequence[Encoded], metrics: Sequence[SplitMetrics], chosen: int) -> None:
        """Add the mean over the seeds to the table, and keep the results of each seed."""
        self.table[name] = average_metrics(metrics)
        if self.seeds:
            found = zip(self.seeds, models, metrics, strict=True)
            results = [SeedResult(seed, str(model.model), each) for seed, model, each in found]
            self.seed_results[name] = SeedResults(results, self.seeds[chosen])
