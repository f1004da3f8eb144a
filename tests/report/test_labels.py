"""What a report says of many networks: no two rows alike, nothing expected that nobody wants, and how it was timed."""
from __future__ import annotations

import os
from pathlib import Path

import pytest
from command_line import run
from run_folders import write_run

from bdsa.commands import report as report_command
from bdsa.commands.report import main as report_main
from bdsa.report.lines import table_lines
from bdsa.report.missing import missing_runs
from bdsa.report.networks import data_tables, setting_value
from bdsa.runs.reading import find_runs, read_runs
from bdsa.runs.target_runs import read_runs as read_target_runs

SEED = "trainer.seed"


def tables_of(folder: Path):
    (table,), homeless = data_tables(read_runs([str(folder)], []), [])
    return table, homeless


def test_networks_that_differ_in_more_than_is_shown_are_told_apart(tmp_path: Path, monkeypatch) -> None:
    """Their labels are cut: two that differ behind the cut would be one row in a page, and a report that fails."""
    many = {"recipe.lr": 0.1, "recipe.momentum": 0.5, "recipe.weight_decay": 0.1, "budgets.tolerance": 0.2}
    write_run(tmp_path / "runs/a")
    write_run(tmp_path / "runs/b", **many)
    write_run(tmp_path / "runs/c", **many, **{"teacher.temperature": 7.0})
    write_run(tmp_path / "runs/d", budgets=(0.7, 0.5, 0.3), **many, **{SEED: 1})  # the second's budgets
    table, _ = tables_of(tmp_path / "runs")
    titles = [network.title for network in table.networks]
    assert len({*titles}) == len(titles) == 3
    assert sum(title.endswith("teacher.temperature=7.0") for title in titles) == 1
    monkeypatch.setattr(report_command, "write_plots", lambda tables, folder: [])
    outcome = run(report_main, [str(tmp_path / "runs"), f"out={tmp_path}/made"])
    assert outcome.code == 0, outcome.err


def test_of_a_dense_network_no_other_budget_is_missing_and_a_seed_starts_from_its_own_run(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / f"dense-seed{seed}", (1.0,), **{SEED: seed, "recipe.epochs": 9})
        for budget in (0.3, 0.5):
            if (budget, seed) != (0.5, 1):
                write_run(tmp_path / f"b{budget}-{seed}", (budget,), **{
                    SEED: seed, "model.weights": f"runs/dense-seed{seed}/checkpoints/best.pt",
                    "teacher.weights": "runs/big-seed0/checkpoints/best.pt"})
    table, homeless = tables_of(tmp_path)
    (missing,) = missing_runs([table], homeless, [])
    assert "at 0.5, seed 1" in missing.what and "model.weights=runs/dense-seed1/checkpoints/best.pt" in missing.command
    assert "teacher.weights=runs/big-seed0/checkpoints/best.pt" in missing.command, "which both seeds share"
    assert {line.state for line in table_lines(table, [0.3, 0.5])} == {""}


def test_targets_are_a_mean_over_seeds_that_start_from_runs_of_their_own(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / f"s{seed}", (0.5,), **{
        SEED: seed, "model.weights": f"runs/dense-seed{seed}/checkpoints/best.pt"}) for seed in (0, 1)]
    assert len(read_target_runs([str(folder) for folder in folders])) == 2


def test_latencies_are_one_sentence_a_machine_and_a_reason_is_said_as_it_is(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(report_command, "write_plots", lambda tables, folder: [])
    for seed, ms in enumerate((4.0, 4.5)):
        write_run(tmp_path / f"runs/s{seed}", latency=ms, **{SEED: seed})
    note = {"note": "latency is measured on a CPU alone"}
    write_run(tmp_path / "runs/gpu", results={"latency": note}, **{"recipe.lr": 0.3})
    outcome = run(report_main, [str(tmp_path / "runs"), f"out={tmp_path}/made"])
    assert "2 threads of Test CPU; dense: 4.00 to 4.50 ms, eager." in outcome.out
    write_run(tmp_path / "runs/large", latency=9.0, **{"model.name": "cifar_resnet32"})
    outcome = run(report_main, [str(tmp_path / "runs"), f"out={tmp_path}/made"])
    assert "dense: 4.00 to 4.50 ms, eager." in outcome.out and "dense: 9.00 ms, eager." in outcome.out
    assert ": latency is measured on a CPU alone." in outcome.out and "unknown processor" not in outcome.out


def test_runs_are_found_behind_links_and_below_a_settings_file_of_something_else(tmp_path: Path, monkeypatch) -> None:
    one = write_run(tmp_path / "store/one")
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper/config.yaml").write_text("name: a site\n")
    (tmp_path / "paper/linked").symlink_to(one)
    (tmp_path / "paper/again").symlink_to(tmp_path / "paper")
    assert find_runs(tmp_path / "paper") == [tmp_path / "paper", tmp_path / "paper/linked"]
    monkeypatch.chdir(one)
    (found,) = read_runs(["."], [])
    assert found.name == "one"


@pytest.mark.skipif(os.name != "posix", reason="names of bytes")
def test_a_folder_whose_name_is_no_utf_8_ends_no_report(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(report_command, "write_plots", lambda tables, folder: [])
    try:
        write_run(tmp_path / "runs" / os.fsdecode(b"gr\xfcn"))
    except OSError:
        pytest.skip("this file system has no such names")
    outcome = run(report_main, [str(tmp_path / "runs"), f"out={tmp_path}/made"])
    assert outcome.code == 0 and "gr\\udcfcn" in (tmp_path / "made/report.html").read_text(), outcome.err


def test_a_path_that_hydra_cannot_read_plain_is_quoted_in_commands() -> None:
    assert [setting_value(path) for path in ("runs/a-b/c.pt", "runs/größe")] == ["runs/a-b/c.pt", "'runs/größe'"]
