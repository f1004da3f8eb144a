"""bdsa-benchmark what=latency and the latencies of a run: the files, the figures in them, and what is refused."""
from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest
import torch
from command_line import BRIEF, TINY, run

from bdsa.commands.benchmark.break_even import in_words
from bdsa.commands.benchmark.gpu_latency import masks_for
from bdsa.commands.entry_points import benchmark as benchmark_main
from bdsa.commands.entry_points import evaluate as evaluate_main
from bdsa.commands.entry_points import train as train_main
from bdsa.errors import UserError
from bdsa.machine import multiplies_bfloat16
from bdsa.models.checkpoints import read_checkpoint
from bdsa.models.factory import create_model
from bdsa.training import run_latency
from bdsa.training.run_latency import add_latency

QUICK = [*BRIEF, "latency.execution=masked", "latency.precision=float32"]
SMALL = [*QUICK, "model=cifar_resnet8", "latency.peers=[eager,folded]"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latency") / "out"
    outcome = run(benchmark_main, [*SMALL, f"out={folder}", "latency.batch_sizes=[1,3]", "latency.profile=true",
                                   "budgets.targets=[0.3,0.6,1.0]"])
    assert outcome.code == 0, outcome.err
    return outcome, folder, [json.loads((folder / f"batch{n}/benchmark.json").read_text()) for n in (1, 3)]


@pytest.mark.slow
def test_the_file_has_the_figures_and_what_they_follow_from(measured):
    for size, made in zip((1, 3), measured[2], strict=True):
        assert (made["model"], made["batch_size"], made["threads"]) == ("cifar_resnet8", size, 1) and made["processor"]
        engines = [(peer["engine"], peer["precision"]) for peer in made["peers"]]
        half = [(name, "bfloat16") for name in ("eager", "folded")] * multiplies_bfloat16()
        assert sorted(engines) == sorted([("eager", "float32"), ("folded", "float32"), *half])
        assert made["image_size"] == 32 and made["break_even"] == []  # masked execution is the other way itself
        for peer in made["peers"]:
            assert peer["ms"] == median(peer["rounds_ms"]) and len(peer["rounds_ms"]) == 3
            assert peer["logits_apart"] < (1e-3 if peer["precision"] == "float32" else 0.1)
        by_precision = {p: min(peer["ms"] for peer in made["peers"] if peer["precision"] == p) for _, p in engines}
        assert {p: made["fastest"][p]["ms"] for p in by_precision} == by_precision
        fastest = made["fastest"]["any"]["ms"]
        assert fastest == min(by_precision.values())
        assert [(r["budget"], r["precision"]) for r in made["rows"]] == [(b, "float32") for b in (0.3, 0.6, 1.0)]
        for row in made["rows"]:
            assert len(row["rounds_ms"]) == 3 and row["ms"] == median(row["rounds_ms"]) > 0
            assert row["speedup"] == pytest.approx(fastest / row["ms"])
            assert row["speedup_same_precision"] == pytest.approx(by_precision["float32"] / row["ms"])
            assert row["speedup_int8"] is None and row["logits_apart"] < 1e-5 and row["decisions_differ"] is None
            assert row["efficiency"] == pytest.approx(row["speedup"] * row["macs_ratio"])
            assert row["conditional_fraction"] == pytest.approx(row["budget"], abs=0.02)
        low, high, dense = made["rows"]
        assert low["density"] < 0.3 < low["macs_ratio"] < high["macs_ratio"] < 1.05  # mask units and the stem are extra
        assert dense["density"] == dense["macs_ratio"] == 1.0
        assert made["settings"]["latency"]["rounds"] == 3 and made["seed"] == 0 and made["environment"]["versions"]


@pytest.mark.slow
def test_table_picture_and_profiles(measured):
    outcome, folder, results = measured
    for made in results:
        for row in made["rows"]:
            line = next(x for x in outcome.out.splitlines() if f"budget {row['budget']:g} " in x
                        and f" {row['ms']:.2f} " in x)
            assert f"{row['speedup']:.2f}" in line and "float32" in line and f"{100 * row['macs_ratio']:.1f} %" in line
        home = folder / f"batch{made['batch_size']}"
        assert (home / "speedup.png").stat().st_size > 5000 and str(home / "benchmark.json") in outcome.out
        assert sorted(p.name for p in home.glob("profile*")) == [
            f"profile-{b}-float32.{kind}" for b in ("b030", "b060") for kind in ("json", "txt")]
        found = json.loads((home / "profile-b030-float32.json").read_text())
        assert "layer3.0" in (home / "profile-b030-float32.txt").read_text() and found["ms"] == made["rows"][0]["ms"]
        assert found["profiled_ms"] == pytest.approx(sum(found["kinds"].values()))


@pytest.mark.slow
def test_larger_densities_and_masked_execution_are_measured_for_the_break_even(tmp_path):
    outcome = run(benchmark_main, [*SMALL, f"out={tmp_path}", "latency.batch_sizes=[3]", "budgets.targets=[0.3,0.7]",
                                   "latency.execution=sparse"])
    assert outcome.code == 0, outcome.err
    made = json.loads((tmp_path / "benchmark.json").read_text())
    probed, masked = made["probes"]                             # 0.7 is measured anyway
    assert made["rows"][1]["density"] < probed["density"] < 1 and masked["density"] is None
    against = {crossed["against"] for crossed in made["break_even"]}
    assert against == {"masked in float32", made["fastest"]["float32"]["title"], made["fastest"]["any"]["title"]}
    for crossed in made["break_even"]:
        assert crossed["from"] == made["rows"][0]["density"] and crossed["to"] == probed["density"]
        assert f"note: {in_words(crossed, 'sparse')}" in outcome.out


@pytest.mark.slow
def test_finished_benchmarks_become_markdown(measured, tmp_path):
    _, folder, results = measured
    (folder / "damaged").mkdir()
    (folder / "damaged" / "benchmark.json").write_text("{}")
    (folder / "gpu").mkdir()
    (folder / "gpu" / "benchmark.json").write_text(json.dumps({"what": "latency", "environment": {"device": "cuda:0"}}))
    outcome = run(benchmark_main, ["what=table", f"out={folder}"])
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    for made in results:
        fastest, (low, middle, _) = made["fastest"]["any"], made["rows"]
        begins = f"| cifar_resnet8 | {made['batch_size']} |"
        short = next(x for x in lines if x.startswith(f"{begins} {100 * low['macs_ratio']:.1f} / "))
        assert f"{fastest['title']}, {fastest['ms']:.1f} ms | {low['ms']:.1f} ms, float32 |" in short
        assert f"| {low['speedup']:.2f} |" in short and short.endswith(f"| {middle['speedup']:.2f} |")
        for row in made["rows"]:
            share = f"{100 * row['macs_ratio']:.1f} %"
            long = next(x for x in lines if x.startswith(f"{begins} {row['budget']:g} | {share} | float32 |"))
            assert f"| {row['speedup_same_precision']:.2f} |" in long and f"| {row['efficiency']:.2f} |" in long
    assert sum(x.startswith("| eager | float32 |") for x in lines) == 1
    assert f"note: {folder / 'damaged' / 'benchmark.json'} is damaged or of an older version" in outcome.out
    assert f"note: {folder / 'gpu' / 'benchmark.json'} is of a GPU" in outcome.out
    assert sum(x.startswith("| ---") for x in lines) == 3
    outcome = run(benchmark_main, ["what=table", f"out={tmp_path}"])
    assert outcome.code == 1 and f"{tmp_path} holds no benchmark.json of what=latency" in outcome.err


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    outcome = run(train_main, [*TINY, f"out={home}", "name=a", "recipe.epochs=1", "budgets.targets=[0.4]",
                               "data.augmentation=none", "trainer.latency=true"])
    assert outcome.code == 0, outcome.err
    return home / "a", outcome


@pytest.mark.slow
def test_a_runs_table_has_its_latency(trained):
    folder, outcome = trained
    evaluation = run(evaluate_main, [f"checkpoint={folder}/checkpoints/best.pt", "trainer.latency=true"])
    for said, path in ((outcome, folder), (evaluation, folder / "evaluations/best-cluttered_digits-test")):
        results = json.loads((path / "results.json").read_text())
        about = results["latency"]
        assert about["batch_size"] == about["threads"] == 1 and about["dense_engine"] in ("eager", "folded")
        assert [r["budget"] for r in results["rows"]] == [0.4, 1.0]
        for row in results["rows"]:
            assert row["latency_ms"] > 0 and row["speedup"] == pytest.approx(about["dense_ms"] / row["latency_ms"])
            line = [x for x in said.out.splitlines() if row["name"] in x][-1]
            assert line.split()[-2:] == [f"{row['latency_ms']:.2f}", f"{row['speedup']:.2f}"]
        assert f"{about['dense_ms']:.2f} ms" in said.out and about["execution"] in said.out
    stored = read_checkpoint(folder / "checkpoints/best.pt")["results"]  # which two runs alike have alike
    assert "latency" not in stored and "latency_ms" not in stored["rows"][0]


def test_without_a_cpu_for_itself_a_run_says_so(monkeypatch):
    results = {"rows": [{"budget": 1.0}]}
    add_latency(results, None, None, torch.device("cuda"))
    assert "GPU" in results["latency"]["note"] and results["rows"] == [{"budget": 1.0}]
    monkeypatch.setenv("WORLD_SIZE", "2")
    add_latency(results, None, None, torch.device("cpu"))
    assert "2 processes" in results["latency"]["note"] and results["rows"] == [{"budget": 1.0}]


def test_a_latency_that_cannot_be_measured_costs_no_result(monkeypatch):
    def fails(*arguments, **more):
        raise RuntimeError("not enough memory\nmore")

    monkeypatch.setattr(run_latency, "latency_of", fails)
    results = {"rows": [{"budget": 1.0}]}
    add_latency(results, create_model("cifar_resnet8", [0.5], 10), [(torch.zeros(3, 32, 32), 0)], torch.device("cpu"))
    assert results["latency"] == {"note": "latency could not be measured: not enough memory"}
    assert results["rows"] == [{"budget": 1.0}]


@pytest.mark.slow
def test_a_checkpoint_is_measured_with_its_own_masks_on_its_test_images(trained, tmp_path):
    path = trained[0] / "checkpoints/best.pt"
    quick = [*QUICK, f"latency.checkpoint={path}", "latency.peers=[eager]"]
    outcome = run(benchmark_main, [*quick, f"out={tmp_path}/own", "latency.batch_sizes=[2]", "data.test_images=16"])
    assert outcome.code == 0, outcome.err
    made = json.loads((tmp_path / "own/benchmark.json").read_text())
    assert (made["model"], made["masks"], made["images"]) == ("cifar_resnet8", "model", "cluttered_digits-test")
    assert run(evaluate_main, [f"checkpoint={path}", "data.test_images=16", f"out={tmp_path}/all"]).code == 0
    row = json.loads((tmp_path / "all/results.json").read_text())["rows"][0]
    assert [r["budget"] for r in made["rows"]] == [0.4, 1.0]    # what was trained, and the dense network
    assert made["rows"][0]["conditional_fraction"] == pytest.approx(row["conditional_fraction"])
    outcome = run(benchmark_main, [*quick, f"out={tmp_path}/blobs", "latency.batch_sizes=[1]",
                                   "latency.masks=synthetic", "model=cifar_resnet8"])
    assert outcome.code == 0, outcome.err
    made = json.loads((tmp_path / "blobs/benchmark.json").read_text())
    assert made["masks"] == made["images"] == "synthetic" and made["image_size"] == 32
    assert made["rows"][0]["conditional_fraction"] == pytest.approx(0.4, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("arguments, expected", [
    (["model=resnet18"], "which holds a cifar_resnet8"),
    (["model.pretrained=true"], "model.pretrained and latency.checkpoint="),
    (["budgets.targets=[0.05]"], "budget 0.05 is below"),
    (["latency.image_size=64"], "give data.image_size=64"),
])
def test_what_a_checkpoint_says_itself_is_not_overruled(trained, tmp_path, arguments, expected):
    outcome = run(benchmark_main, [*QUICK, f"latency.checkpoint={trained[0]}/checkpoints/best.pt", *arguments,
                                   f"out={tmp_path}/out"])
    assert outcome.code == 1 and expected in outcome.err and outcome.err.strip().count("\n") == 0
    assert not (tmp_path / "out").exists()


def test_a_comparison_with_no_engine_is_refused_before_anything_is_timed(tmp_path):
    outcome = run(benchmark_main, [*QUICK, "model=convnext_atto", "latency.peers=[folded]", "latency.image_size=64",
                                   f"out={tmp_path}/out"])
    assert outcome.code == 1 and "convnext_atto has no batch norm to fold: add eager" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("arguments, expected", [
    (["latency.batch_sizes=[1,0]"], "latency.batch_sizes=[1, 0]: 0 must be above zero"),
    (["latency.batch_sizes=[]"], "latency.batch_sizes is empty"),
    (["latency.peers=[eager,openvimo]"], "unknown value of latency.peers 'openvimo' (did you mean 'openvino'?)"),
    (["latency.peers=[]"], "latency.peers is empty"),
    (["latency.masks=model"], "needs a trained network: latency.checkpoint=PATH"),
    (["latency.execution=spares"], "unknown value of latency.execution 'spares' (did you mean 'sparse'?)"),
    (["latency.rounds=0"], "latency.rounds=0 must be above zero"),
    (["latency.image_size=2"], "image size 2 is too small for cifar_resnet8"),
    (["model.start=x.pt"], "give latency.checkpoint=x.pt"),
    (["latency.checkpoint=nowhere.pt"], "nowhere.pt"),
    (["trainer.device=cuda:77"], "not available on this machine"),
])
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    outcome = run(benchmark_main, [*SMALL, *arguments])
    assert outcome.code == 1 and expected in outcome.err and outcome.err.strip().count("\n") == 0
    assert not list(Path(tmp_path).iterdir())


def test_a_network_without_a_budget_below_1_is_refused_on_a_gpu():
    with pytest.raises(UserError, match="has no budget below 1"):
        masks_for(create_model("cifar_resnet8", [1.0]), torch.zeros(1, 3, 32, 32), [])
