"""The whole pipeline with the public API: training data, training, a saved model and a search."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from text.bundle import BiEncoderBundle
from text.datasets import DPRDataPipe
from text.losses import in_batch_nll
from text.models import BiEncoder, roberta_tiny
from text.retrieval import Retriever, encode_collection
from text.transforms import BiEncoderCollator, encoder_settings, train_tokenizer

FOOD = {"beetle": "the oak", "panda": "bamboo", "whale": "krill", "bee": "nectar"}


def test_from_jsonl_to_search(tmp_path: Path) -> None:
    passages = [{"_id": eater, "title": eater, "text": f"A {eater} eats {food}."} for eater, food in FOOD.items()]
    rows = [{"question": f"what eats {FOOD[p['_id']]}", "positive_ctxs": [p | {"id": p["_id"]}]} for p in passages]
    for name, lines in (("train.jsonl", rows), ("passages.jsonl", passages)):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))

    # Data, tokenizer and encoders.
    pipe = DPRDataPipe(tmp_path / "train.jsonl", batch_size=4, train=True)
    tokenizer = train_tokenizer(pipe.texts(), vocab_size=300)
    torch.manual_seed(0)
    encoder = roberta_tiny(**encoder_settings(tokenizer), pooling="mean")
    model = BiEncoder(encoder, encoder)
    bundle = BiEncoderBundle(model=model, tokenizer=tokenizer, question_max_length=16, passage_max_length=32)

    # Training.
    collate = BiEncoderCollator(bundle.transform("question"), bundle.transform("passage"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for epoch in range(30):
        pipe.set_epoch(epoch)
        for batch in map(collate, pipe):
            questions, texts = model(batch.questions, batch.passages)
            loss = in_batch_nll(questions, texts[batch.text_index], batch.positive_index).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < 0.1 < losses[0]

    # A saved model, embeddings on disk, and a search.
    bundle.save(tmp_path / "model")
    encode_collection(tmp_path / "model", tmp_path / "passages.jsonl", tmp_path / "embeddings")
    retriever = Retriever.from_pretrained(tmp_path / "model", tmp_path / "embeddings")
    found = retriever.search([f"what eats {food}" for food in FOOD.values()], k=2)
    assert [each.passage_ids[0] for each in found] == list(FOOD)
