"""The page that goes with a model: how to use it, what it was trained on and how, what it reached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import text
from text.artifacts import write_text
from text.datasets import DPRDataPipe

# Those that say where files are, or how the machine was used.
_NOT_SETTINGS = (
    "gpus num_nodes fast_dev_run chunk_tokens data_path train_files passages token_cache sel_data sel_raw_path "
    "sel_out_path sel_num_items sel_skip_items output_dir overwrite resume num_workers log_every_n_steps validate_first"
).split()


def write_model_card(
    folder: str,
    config: Mapping[str, Any],
    pipes: dict[str, DPRDataPipe],
    figures: Mapping[str, float],
    *,
    is_tied: bool,
) -> None:
    """Writes ``model/README.md`` in a run's folder.

    Args:
        folder: The run's.
        config: Every flag.
        pipes: The data of each stage.
        figures: Of the test, by name.
        is_tied: Whether there is one encoder.
    """
    settings = {name: value for name, value in config.items() if name not in _NOT_SETTINGS and value is not None}
    files = (
        (stage, Path(file.path).name, f"{pipe.num_rows:,}") for stage, pipe in pipes.items() for file in pipe.files
    )
    results = ((name.removeprefix("test_"), f"{value:.4f}") for name, value in figures.items())
    passage_encoder = "question_encoder" if is_tied else "passage_encoder"
    passage = '("its title", "its text")' if config["titles"] == "pair" else '"its title its text"'
    similarity = "cosine similarity" if config["similarity"] == "cosine" else "dot product"
    page = f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [dense-passage-retrieval, sentence-transformers]
---

# Dense passage retrieval

{"One encoder for questions and passages" if is_tied else "An encoder for questions and one for passages"}, trained by
dpr-text {text.__version__} so that a question's embedding lies closest, by {similarity}, to that of a passage that
answers it (arXiv:2004.04906). Questions have up to {config["question_max_length"]} tokens, a passage's title and text
together {config["passage_max_length"]}.

## Use

```python
from text.models import BiEncoder

model = BiEncoder.from_pretrained("model")
```

With sentence-transformers; with transformers, either encoder alone:

```python
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

model = SentenceTransformer("model")
questions = model.encode_query(["who wrote it"])
passages = model.encode_document([{passage}])
encoder = AutoModel.from_pretrained("model/{passage_encoder}")
```

## Data

{_table(("stage", "file", "questions"), files)}

## Results

On the test file; questions are ranked among the passages of all its rows, not in a whole collection.

{_table(("figure", "value"), results)}

## Settings

{_table(("flag", "value"), settings.items())}
"""
    write_text(Path(folder, "model", "README.md"), page)


def _table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', '&#124;') for cell in line)} |" for line in lines)
