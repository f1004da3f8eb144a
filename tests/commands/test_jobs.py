"""A job of a command line: what it returns to a search, and that it reads no folder but its own."""
from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import run

import bdsa.commands.benchmark.latency_table
from bdsa.commands.entry_points import benchmark, train
from bdsa.commands.job import worth

RESULTS = {"trained_budgets": [0.3, 0.5], "rows": [
    {"name": name, "budget": budget, "top1": top1, "conditional_fraction": budget, "macs": 1e7, "images": 10}
    for name, budget, top1 in (("b030", 0.3, 80.0), ("b050", 0.5, 90.0), ("b100", 1.0, 20.0))],
    "model": "cifar_resnet8", "data": "digits", "split": "test", "classes": 10, "image_size": 32, "dense_macs": 4e7}


@pytest.mark.parametrize("name, expected", [("mean", 85.0), ("worst", 80.0), ("b050", 90.0), (None, None)])
def test_a_run_is_worth_the_top1_of_the_budgets_that_it_trained(tmp_path: Path, name: str, expected: float) -> None:
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))
    assert worth(name, tmp_path) == expected


def test_a_job_that_is_put_back_in_the_queue_is_not_taken_for_failed(tmp_path: Path, monkeypatch) -> None:
    """submitit ends the process at a time limit; the folder must not say that the training failed."""
    def ends(config, folder):
        raise SystemExit(-1)

    for submitted in (False, True):
        if submitted:
            monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
            monkeypatch.setenv("WORLD_SIZE", "1")
        folder = tmp_path / str(submitted)
        monkeypatch.setattr("bdsa.training.trainer.train", ends)
        outcome = run(train, ["-m", f"out={folder}", "tracker=none", "trainer.seed=0"])
        assert bool([*folder.rglob("failure.txt")]) is not submitted, outcome.err
        assert outcome.code == (-1 if submitted else 1)


def test_a_benchmark_in_a_folder_with_somebody_elses_results_ends_well(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "results.json").write_text("a stranger's")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bdsa.commands.benchmark.latency_table, "benchmark", lambda config, named: "done")
    outcome = run(benchmark, ["what=table"])
    assert outcome.code == 0 and not outcome.err
