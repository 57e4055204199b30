"""``benchmarks/gpu.py`` runs on a CPU with small sizes, so that a machine with a GPU runs a tested script."""

from __future__ import annotations

import pytest

from benchmarks import gpu


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Warnings of the other libraries.
def test_every_side_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sentence_transformers")
    gpu.main(["--small"])
    page = capsys.readouterr().out.partition("\n# GPU\n")[2]
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith(("| dpr", "| sen", "| tra"))]
    measured = [row for row in rows if row[-1].endswith("0.0 |")]
    assert len(measured) == 5 + 7 + 5 - 1, page
    assert all(float(row[1].replace(",", "")) > 0 for row in measured), page


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_side_that_fails_shows_its_error_and_the_rest_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise RuntimeError("no kernel | for this\nand more")

    broken = gpu.Side("broken", build=lambda: fail, num_passages=8)
    fine = gpu.Side("fine", build=lambda: lambda: None, num_passages=8)
    sides = [broken, fine, fine._replace(name="slow", seconds=1e9)]
    monkeypatch.setattr(gpu, "list_sections", lambda workload: [("A", sides), ("B", sides)])
    gpu.main(["--small"])
    page = capsys.readouterr().out
    assert "| broken | RuntimeError: no kernel / for this | | | |" in page
    assert "| slow | no time left | | | |" in page
    assert page.count("| fine | ") == 2
