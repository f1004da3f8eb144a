"""bdsa-benchmark what=latency and the latencies of a run: what is timed is what is said, and figures follow from it."""
from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest
import torch
from command_line import BRIEF, TINY, run
from network_cases import adaptive, images_of, perturb
from timm.models.resnet import BasicBlock
from torch import nn

from bdsa.commands.benchmark.break_even import break_evens, in_words
from bdsa.commands.benchmark.profile import labelled, profile_budget
from bdsa.commands.benchmark.synthetic_masks import block_shapes, synthetic_masks
from bdsa.commands.benchmark.ways import against_each_way
from bdsa.commands.benchmark.ways import as_markdown as ways_as_markdown
from bdsa.commands.benchmark.ways import in_words as ways_in_words
from bdsa.commands.entry_points import benchmark as benchmark_main
from bdsa.commands.entry_points import evaluate as evaluate_main
from bdsa.commands.entry_points import train as train_main
from bdsa.machine import multiplies_bfloat16
from bdsa.models.checkpoints import read_checkpoint
from bdsa.models.dense_copy import dense_copy, fold_batch_norms
from bdsa.sparse.latency import time_engines
from bdsa.training.run_latency import add_latency

QUICK = [*BRIEF, "latency.execution=masked", "latency.precision=float32"]
SMALL = [*QUICK, "model=cifar_resnet8", "latency.peers=[eager,folded]"]


@pytest.mark.parametrize("name, size", [("cifar_resnet20", (32, 32)), ("resnet50", (64, 96)),
                                        ("convnext_atto", (61, 96))])
def test_synthetic_masks_cost_the_budget_in_every_block_and_image(name, size):
    network = adaptive(name)
    shapes = block_shapes(network, size)
    for budget in network.budgets:
        masks = synthetic_masks(shapes, budget, images=3)
        with torch.inference_mode():
            _, usage = network(torch.zeros(3, 3, *size), budget=budget, masks=masks, return_usage=True)
        assert all(torch.equal(a, b) for a, b in zip(usage.masks, masks, strict=True))
        for shape, fractions in zip(shapes, usage.block_fractions.T, strict=True):
            dilated, masked = shape.block.macs_per_position()
            total = shape.output[0] * shape.output[1] * masked + dilated * shape.block.dilated_positions(
                torch.empty(1, 1, *shape.input), torch.empty(1, 1, *shape.output))
            one_position = (9 * dilated + masked) / total       # at most: with all neighbours
            assert float((fractions - budget).abs().max()) <= 0.5 * one_position + 1e-9


def test_synthetic_masks_follow_from_the_seed_and_are_blobs():
    shapes = block_shapes(adaptive("cifar_resnet20"), (32, 32))
    few, more, wide = (synthetic_masks(shapes, b, images=n, seed=5) for b, n in ((0.3, 2), (0.3, 4), (0.6, 4)))
    assert all(torch.equal(a, b[:2]) for a, b in zip(few, more, strict=True))   # whatever the batch
    assert all(bool((a <= b).all()) for a, b in zip(more, wide, strict=True))   # a larger budget adds positions
    assert not torch.equal(few[0], synthetic_masks(shapes, 0.3, images=2, seed=6)[0])
    assert not torch.equal(more[0][0], more[0][1]) and not torch.equal(more[0], more[1])

    def alike(masks):  # share of neighbours that agree; 0.66 for as many positions strewn at random
        return float((masks[:, :, :, 1:] == masks[:, :, :, :-1]).float().mean())
    assert alike(more[0]) > 0.85 > alike(synthetic_masks(shapes, 0.3, images=4, blob=0.0)[0])


@pytest.mark.parametrize("name", ["cifar_resnet20", "resnet26d", "convnext_atto"])
def test_the_dense_copy_is_plain_timm_and_folding_keeps_its_logits(name):
    x = images_of((64, 64))
    network = perturb(adaptive(name), x)
    with torch.inference_mode():
        expected = network(x)
        plain = dense_copy(network)
        assert torch.equal(plain(x), expected) and not any(".per_budget." in k or "mask_units" in k
                                                           for k in plain.state_dict())
        assert not any(type(m).__module__.startswith("bdsa.m") and "Adaptive" in type(m).__name__
                       for m in plain.modules())
        folded = fold_batch_norms(plain)
        if name == "convnext_atto":
            assert folded is None
            return
        assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
        assert torch.allclose(folded(x), expected, atol=1e-4 * float(expected.abs().max()))
        assert any(type(m) is BasicBlock or "Bottleneck" in type(m).__name__ for m in plain.modules())
        assert torch.equal(network(x), expected) and network.budgets.adaptive


def test_engines_take_turns_and_go_through_the_inputs():
    seen = []
    ms = time_engines({n: lambda i, n=n: seen.append((n, i)) for n in "ab"}, inputs=3, rounds=2, seconds=1e-5)
    assert [len(v) for v in ms.values()] == [2, 2] and all(v > 0 for each in ms.values() for v in each)
    for name in "ab":
        inputs = [i for n, i in seen if n == name]
        assert inputs == [k % 3 for k in range(len(inputs))] and len(inputs) >= 3 + 4
    order = [n for k, (n, _) in enumerate(seen) if k == 0 or seen[k - 1][0] != n]
    assert "".join(order) == "ab" * 4                           # made ready, a round to warm up, and two


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


@pytest.mark.parametrize("execution", ["masked", "sparse"])
def test_a_profile_finds_every_block_and_its_macs(execution):
    x = images_of((32, 32), batch=2)
    network = perturb(adaptive("cifar_resnet20"), x)
    with torch.inference_mode():
        _, usage = network(x, budget=0.3, return_usage=True)
    found = profile_budget(network, [x, x], 0.3, execution)
    blocks = [p for p in found["places"] if "macs" in p]
    assert [p["name"] for p in blocks] == [f"layer{s}.{i}" for s in (1, 2, 3) for i in range(3)]
    outside = network.conv1.weight.numel() * 32 * 32 + network.fc.weight.numel()
    ran = float(usage.conditional_fraction.sum()) * (network.dense_macs((32, 32)) - outside)
    assert sum(p["macs"] for p in blocks) == pytest.approx(ran)
    assert all(p["ms"] > 0 and p["kinds"]["mask unit"] > 0 for p in blocks)
    assert any("head" in p["name"] for p in found["places"])
    assert ("sparse branch" in found["kinds"]) == (execution == "sparse")  # it was that execution
    before = set(network.layer1[0].__dict__)
    with labelled(network, 0.3, execution):
        assert ("run" in network.layer1[0].__dict__) == (execution == "masked")
    assert set(network.layer1[0].__dict__) == before - {"run"}


def test_where_another_way_becomes_the_faster_one():
    rows = [{"precision": p, "density": d, "ms": ms} for p, d, ms in (
        ("float32", 0.2, 10.0), ("bfloat16", 0.2, 4.0), ("float32", 0.4, 20.0), ("bfloat16", 0.4, 6.0),
        ("float32", 1.0, 1.0))]                                 # the dense network goes another way
    probed = [{"precision": p, "density": d, "ms": ms} for p, d, ms in (
        ("float32", 0.8, 40.0), ("float32", None, 30.0), ("bfloat16", None, 5.0))]
    fastest = {"any": {"title": "b in bfloat16", "ms": 3.0}, "bfloat16": {"title": "b in bfloat16", "ms": 3.0},
               "float32": {"title": "a in float32", "ms": 50.0}}
    found = break_evens(rows, probed, fastest)
    assert {(c["precision"], c["against"]): c["density"] for c in found} == {
        ("float32", "masked in float32"): pytest.approx(0.6), ("float32", "a in float32"): None,
        ("float32", "b in bfloat16"): 0.0, ("bfloat16", "masked in bfloat16"): pytest.approx(0.3),
        ("bfloat16", "b in bfloat16"): 0.0}
    said = [in_words(c, "sparse") for c in found]
    assert said[0] == "sparse in float32 is slower than masked in float32 from density 0.60"
    assert said[1] == "sparse in float32 is faster than a in float32 up to density 0.80, the largest measured"
    assert said[2] == "sparse in float32 is slower than b in bfloat16 from density 0.20, the smallest measured"


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


def test_automatic_execution_is_compared_with_the_fastest_way_round_by_round():
    rows = [{"name": "b030", "budget": 0.3, "precision": "float32", "rounds_ms": [6.0, 12.0, 6.0]},
            {"name": "b100", "budget": 1.0, "precision": "float32", "rounds_ms": [6.0, 6.0, 6.0]}]
    timed = [{"name": "b030", "precision": p, "way": f"{way} in {p}", "rounds_ms": ms} for p, way, ms in (
        ("float32", "sparse", [5.0, 10.0, 4.0]), ("float32", "masked", [9.0] * 3), ("bfloat16", "sparse", [1.0] * 3))]
    [compared] = against_each_way(rows, timed)
    assert (compared["way"], compared["ms"]) == ("sparse in float32", 5.0)
    assert compared["longer"] == pytest.approx(0.2), "a round that was slow for both says nothing"
    assert ways_in_words(compared) == ("budget 0.3 in float32: auto takes 20% longer than sparse in float32 alone, the "
                                       "fastest way (5.00 ms)")
    table = ways_as_markdown([{"model": "a", "batch_size": 8, "ways": [compared]}])
    assert table.splitlines()[-1] == "| a | 8 | float32 | 1.20 (sparse in float32) |"


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
