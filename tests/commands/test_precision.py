"""bdsa-evaluate precision=bfloat16: what it changes is measured beside it, with the network's own masks."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run

from bdsa.commands.entry_points import evaluate as evaluate_main

TRAINED = Path(__file__).parents[2] / "experiments/cifar10_resnet20/cifar_resnet20.safetensors"
IMAGES = 200


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["sparse", "masked"])
def test_an_evaluation_in_bfloat16_says_what_it_changes(tmp_path, execution):
    asked = [f"checkpoint={TRAINED}", "data=cluttered_digits", f"data.test_images={IMAGES}", "trainer.pictures=0",
             f"execution={execution}", "trainer.device=cpu"]
    made = {}
    for precision in ("float32", "bfloat16"):
        outcome = run(evaluate_main, [*asked, f"precision={precision}", f"out={tmp_path}/{precision}"])
        assert outcome.code == 0, outcome.err
        made[precision] = json.loads((tmp_path / precision / "results.json").read_text())
        assert made[precision]["precision"] == precision
    for exact, row in zip(made["float32"]["rows"], made["bfloat16"]["rows"], strict=True):
        assert row["reference_top1"] == exact["top1"] and "reference_top1" not in exact
        # These images are none that it was trained for: where it is unsure, a few may go either way.
        assert abs(row["top1"] - exact["top1"]) <= 100 * 4 / IMAGES
        assert row["conditional_fraction"] == pytest.approx(exact["conditional_fraction"], abs=2e-3)
        assert (0 < row["decisions_differ"] < 5e-3) if row["budget"] < 1 else row["decisions_differ"] == 0
        said = f"{100 * row['decisions_differ']:.2g} % of the decisions differ"
        assert any(line.startswith(f"{row['name']}: precision=bfloat16 is") and said in line
                   for line in outcome.out.splitlines())


@pytest.mark.slow
@pytest.mark.parametrize("here", [True, False])
def test_an_evaluation_says_which_precision_auto_was(tmp_path, monkeypatch, here):
    monkeypatch.setattr("bdsa.sparse.precision.is_native", lambda: here)
    outcome = run(evaluate_main, [f"checkpoint={TRAINED}", "data=cluttered_digits", "data.test_images=20",
                                  "trainer.pictures=0", "trainer.latency=false", "trainer.device=cpu",
                                  "precision=auto", f"out={tmp_path}"])
    assert outcome.code == 0, outcome.err
    taken = "bfloat16" if here else "float32"
    assert all(row["precision_taken"] == taken
               for row in json.loads((tmp_path / "results.json").read_text())["rows"])
    assert f"b030: precision=auto ({taken}) is" in outcome.out


@pytest.mark.slow
def test_an_evaluation_in_int8_measures_ranges_first(tmp_path):
    asked = [f"checkpoint={TRAINED}", "data=cluttered_digits", "data.test_images=50", "data.train_images=300",
             "trainer.pictures=0", "execution=sparse", "trainer.device=cpu", "precision=int8", f"out={tmp_path}"]
    outcome = run(evaluate_main, asked)
    assert outcome.code == 0, outcome.err
    assert "they are measured on 256 training images" in outcome.out
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert all(abs(row["top1"] - row["reference_top1"]) <= 100 * 5 / 50 for row in rows)
    assert all(0 < row["decisions_differ"] < 0.02 for row in rows if row["budget"] < 1)


def test_another_precision_is_refused(tmp_path):
    outcome = run(evaluate_main, [f"checkpoint={TRAINED}", "precision=bfloat", f"out={tmp_path}/out"])
    assert outcome.code == 1 and "unknown value of precision 'bfloat' (did you mean 'bfloat16'?)" in outcome.err
    assert not (tmp_path / "out").exists()
