"""bdsa-benchmark: the steps that it times are those of a training, and what it says follows from the times."""
from __future__ import annotations

import json

import pytest
import torch
from command_line import TINY, run

import bdsa.commands.benchmark.training
import bdsa.commands.benchmark.training_report
from bdsa.commands.benchmark.folder import benchmark_folder
from bdsa.commands.benchmark.training import row, time_loader, variants, whole_turns
from bdsa.commands.benchmark.training_report import notes, speed_table, verdict
from bdsa.commands.entry_points import benchmark as benchmark_main
from bdsa.config.benchmark import BenchmarkConfig
from bdsa.config.settings import BudgetsConfig, ModelConfig, RecipeConfig, TeacherConfig
from bdsa.report.terminal import print_whole
from bdsa.sparse.stopwatch import take_turns
from bdsa.training.step import TrainStep

CPU = torch.device("cpu")
QUICK = [*TINY, "recipe.batch_size=4", "timing.rounds=2", "timing.steps=2", "trainer.threads=1"]


def config(budgets=(0.3, 0.5, 1.0), teacher="none", **recipe) -> BenchmarkConfig:
    return BenchmarkConfig(budgets=BudgetsConfig(targets=list(budgets)), teacher=TeacherConfig(kind=teacher),
                           recipe=RecipeConfig(**recipe))


@pytest.mark.parametrize("budgets, teacher, names", [
    ((0.3, 0.5, 1.0), "self", ["dense", "single", "multi", "multi+teacher"]),
    ((0.3, 0.5, 1.0), "none", ["dense", "single", "multi"]),
    ((0.5,), "self", ["dense", "single", "single+teacher"]),
    ((1.0,), "self", ["dense"]),                                # no teacher of itself
    ((1.0,), "model", ["dense", "dense+teacher"]),
])
def test_the_last_kind_of_step_is_the_trainings_own(budgets, teacher, names):
    found = variants(config(budgets, teacher))
    assert [v.name for v in found] == names
    assert found[0].budgets == (1.0,) and not found[0].taught
    assert found[-1].budgets == budgets and found[-1].taught == names[-1].endswith("teacher")


def test_a_sandwich_is_measured_beside_the_steps_in_turn():
    asked = config((0.3, 0.5, 1.0), "self")
    asked.budgets.schedule = "sandwich"
    assert [(v.name, v.schedule) for v in variants(asked)][-2:] == [
        ("multi+teacher", "round_robin"), ("sandwich+teacher", "sandwich")]


@pytest.mark.parametrize("steps, budgets, accumulation, expected", [
    (12, (0.3, 0.5, 0.7), 1, 12), (1, (0.3, 0.5, 0.7), 1, 3), (5, (0.5,), 4, 8), (12, (0.3, 0.5, 0.7), 32, 96)])
def test_a_round_has_whole_turns_of_the_budgets_and_whole_updates(steps, budgets, accumulation, expected):
    asked = config(budgets, accumulation=accumulation)
    asked.timing.steps = steps
    assert whole_turns(asked) == expected


def test_steps_that_a_graph_repeats_have_rows_of_their_own(monkeypatch):
    class Work:
        step, all_steps, replay = None, None, None

    monkeypatch.setattr(bdsa.commands.benchmark.training, "captured_steps",
                        lambda name, step, steps: None if name == "dense" else "a replay")
    found = bdsa.commands.benchmark.training.graphs({"dense": Work(), "single": Work()})
    assert {name: work.replay for name, work in found.items()} == {"single, graph": "a replay"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_graphs_of_steps_need_a_gpu(tmp_path):
    outcome = run(benchmark_main, [*QUICK, f"out={tmp_path / 'out'}", "timing.graph=true", "trainer.device=cpu"])
    assert outcome.code == 1 and outcome.err.startswith("error: timing.graph=true captures CUDA graphs")
    assert outcome.err.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_steps_are_captured_on_a_gpu(tmp_path):
    outcome = run(benchmark_main, [*QUICK, f"out={tmp_path}", "timing.graph=true", "trainer.device=cuda"])
    assert outcome.code == 0, outcome.err
    names = [row["name"] for row in json.loads((tmp_path / "benchmark.json").read_text())["rows"]]
    assert {"dense, graph", "single, graph", "multi, graph"} <= set(names)


def test_works_take_turns_and_warm_up_rounds_do_not_count():
    done = []
    timed = take_turns({"a": lambda: done.append("a"), "b": lambda: done.append("b")}, 3, 2, CPU)
    assert "".join(done) == "ab" * 5
    assert all(len(t.seconds) == 3 and t.working_memory is None for t in timed.values())


def test_a_row_is_the_median_round():
    made = row("multi", [1.0, 9.0, 2.0, 3.0], steps=10, batch_size=8)
    assert made["ms_per_step"] == 250 and made["images_per_second"] == 32
    assert made["rounds_ms"] == [100, 900, 200, 300]


def test_the_loader_is_read_epoch_after_epoch():
    class Loader(list):
        num_workers, prefetch_factor, epochs = 2, 3, []

        def set_epoch(self, epoch: int) -> None:
            self.epochs.append(epoch)

    batches, seconds = time_loader(Loader(range(4)), 5, rounds=3)
    assert batches == 8 and len(seconds) == 3                   # four of each worker
    assert Loader.epochs == list(range(8))                      # 7 that are held ready, and 24, are 31


@pytest.mark.parametrize("gives, takes, workers, spare, expected", [
    (3100, 220, 4, 7, "gives 3,100 images/s, training (multi) takes 220: the loader waits"),
    (800, 2200, 4, 7, "training waits; raise data.workers (now 4)"),
    (800, 2200, 7, 7, "training waits, and there are no cores for more than 7 workers"),
    (300, 150, 0, 1, "take turns in one process, so 100 together; data.workers=1 would read meanwhile"),
    (300, 150, 0, 0, "so 100 together"),
    (9000, 90, 0, 1, "so 89.1 together"),
])
def test_the_verdict_says_who_waits_and_what_helps(monkeypatch, gives, takes, workers, spare, expected):
    monkeypatch.setattr(bdsa.commands.benchmark.training_report, "spare_cores", lambda: spare)
    said = verdict({"name": "multi", "images_per_second": takes}, {"images_per_second": gives, "workers": workers})
    assert expected in said and ("data.workers" in said) == ("data.workers" in expected)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A benchmark, and what each network in it was called with: budgets, gradient or not, updates, batch sizes."""
    folder = tmp_path_factory.mktemp("benchmark") / "out"
    seen: dict[int, list] = {}
    patch = pytest.MonkeyPatch()

    def spied(self, number, images, labels):
        calls = seen.setdefault(id(self), [])
        self.network.dense_macs(tuple(images.shape[2:]))        # counted once, by a pass that trains nothing
        hook = self.network.register_forward_pre_hook(lambda module, args, options: calls.append(
            (options["budget"], torch.is_grad_enabled(), module.training, len(args[0]))), with_kwargs=True)
        before = self.network.conv1.weight.detach().clone()
        losses = trained(self, number, images, labels)
        hook.remove()
        calls.append(("moved", not torch.equal(before, self.network.conv1.weight), sorted(losses)))
        return losses

    trained = TrainStep.__call__
    patch.setattr(TrainStep, "__call__", spied)
    patch.setattr(bdsa.commands.benchmark.training.os, "getloadavg", lambda: (99.0, 0.0, 0.0))
    outcome = run(benchmark_main, [*QUICK, f"out={folder}", "budgets.targets=[0.3,0.6,1.0]", "teacher=self",
                                   "recipe.accumulation=2", "data.workers=1"])
    patch.undo()
    assert outcome.code == 0, outcome.err
    return list(seen.values()), outcome, json.loads((folder / "benchmark.json").read_text())


@pytest.mark.slow
def test_each_kind_trains_what_it_says(measured):
    steps, _, content = measured
    assert content["steps"] == 6 and len(steps) == 4            # 3 budgets, 2 micro-batches an update
    budgets = {"dense": [1.0], "single": [0.3], "multi": [0.3, 0.6, 1.0], "multi+teacher": [0.3, 0.6, 1.0]}
    for calls, name in zip(steps, budgets):
        inputs = [c for c in calls if c[0] != "moved"]
        learnt = [budget for budget, gradient, *_ in inputs if gradient]
        assert learnt == budgets[name] * (18 // len(budgets[name])), name  # a round to warm up, and two
        assert all(training and size == 4 for _, _, training, size in inputs)
        assert [moved for what, moved, *_ in calls if what == "moved"] == [False, True] * 9
        taught = [budget for budget, gradient, *_ in inputs if not gradient]
        assert taught == ([1.0] * 12 if name == "multi+teacher" else [])   # the dense budget has no teacher
        assert any("kd" in losses for what, _, losses, *_ in (c for c in calls if c[0] == "moved")) == bool(taught)


@pytest.mark.slow
def test_the_file_holds_what_the_figures_depend_on(measured):
    content = measured[2]
    assert [r["name"] for r in content["rows"]] == ["dense", "single", "multi", "multi+teacher", "loader"]
    for r in content["rows"]:
        assert len(r["rounds_ms"]) == 2 and r["images_per_second"] == pytest.approx(4000 / r["ms_per_step"])
    dense, *others, loader = content["rows"]
    assert dense["time_ratio"] == 1 and others[-1]["budgets"] == [0.3, 0.6, 1.0] and others[-1]["teacher"] == "self"
    assert others[1]["time_ratio"] == pytest.approx(others[1]["ms_per_step"] / dense["ms_per_step"])
    assert loader["workers"] == 1 and "time_ratio" not in loader
    assert content["environment"]["threads"] == 1 and content["environment"]["processor"]
    assert content["environment"]["device"] in ("cpu", "cuda") and content["settings"]["recipe"]["accumulation"] == 2


@pytest.mark.slow
def test_the_table_shows_it(measured):
    _, outcome, content = measured
    lines = outcome.out.splitlines()
    for r in content["rows"]:
        line = next(x for x in lines if x.strip().startswith(f"{r['name']} "))
        assert f"{r['ms_per_step']:.1f}" in line
    assert "cifar_resnet8, batch 4, 32 pixels, float32" in outcome.out and "1 CPU thread " in outcome.out
    assert content["verdict"] in outcome.out and "benchmark.json" in lines[-1]
    assert "load 99.0" in outcome.out and "figures are too low" in outcome.out


def test_memory_is_shown_where_it_was_measured(capsys):
    content = {"model": "m", "batch_size": 8, "image_size": 32, "rounds": 1, "steps": 1, "cores": 4, "load_before": 0.1,
               "environment": {"accelerator": "a GPU", "processor": "p", "threads": 2},
               "settings": {"trainer": {"amp": "bfloat16", "compile": True}}, "slow_choices": ["bfloat16 is slow here"],
               "rows": [row("dense", [1.0], 1, 8, budgets=[1.0], peak_memory=3 * 2 ** 29),
                        row("loader", [1.0], 1, 8, workers=1)]}
    print_whole(speed_table(content))
    shown = capsys.readouterr().out
    assert "1.50 GiB" in shown and "bfloat16, compiled" in shown and "a GPU, 2 CPU threads" in shown
    assert "1 worker " in shown and not any("other programs" in note for note in notes(content))
    assert notes(content)[-1] == "bfloat16 is slow here"


@pytest.mark.parametrize("more", [{}, {"name": "mine"}, {"out": "measured"}])
def test_jobs_of_a_sweep_have_folders_of_their_own(monkeypatch, more):
    monkeypatch.setattr("bdsa.commands.benchmark.folder.in_sweep", lambda: True)
    jobs = [BenchmarkConfig(model=ModelConfig(name=name), **more) for name in ("resnet18", "resnet50")]
    folders = {benchmark_folder(job, "synthetic", job.model.name, "cpu") for job in jobs}
    assert len(folders) == 2 and all(more.get("out", more.get("name", "runs")) in str(folder) for folder in folders)


@pytest.mark.slow
def test_without_a_folder_it_makes_one_by_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for extra in ([], ["recipe.batch_size=6"], ["name=mine"]):
        outcome = run(benchmark_main, [*QUICK, "budgets.targets=[1.0]", "timing.rounds=1", *extra])
        assert outcome.code == 0, outcome.err
    folders = sorted(p.parent.name for p in tmp_path.glob("runs/benchmarks/*/benchmark.json"))
    assert len(folders) == 3 and folders[0] == "mine"
    assert all(f.startswith("training-cluttered_digits-cifar_resnet8-") for f in folders[1:])


@pytest.mark.slow
@pytest.mark.parametrize("arguments, expected", [
    (["what=trainng"], "unknown value of what 'trainng' (did you mean 'training'?)"),
    (["timing.round=3"], "did you mean 'timing.rounds'"),
    (["timing.warmup=0"], "timing.warmup=0 must be above zero"),
    (["budgets.targets=[0]"], "budget 0.0 is outside (0, 1]"),
    (["recipe.batch_size=500"], "batch size 500 is larger than the training set of 96"),
    (["out={folder}/file"], "is a file: give a folder"),
    (["teacher=checkpoint"], "teacher.weights=PATH"),
])
def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, arguments, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    outcome = run(benchmark_main, [*QUICK, *(a.format(folder=tmp_path) for a in arguments)])
    assert outcome.code == 1 and expected in outcome.err and outcome.err.strip().count("\n") == 0
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = run(benchmark_main, QUICK)
    assert outcome.code == 1 and "one process and was started in 2" in outcome.err
