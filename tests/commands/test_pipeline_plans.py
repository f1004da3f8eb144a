"""What bdsa-pipeline refuses, it refuses before it trains anything: both stages are planned first."""
from __future__ import annotations

from types import SimpleNamespace

import pytest
from command_line import TINY, run
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from bdsa.commands.entry_points import pipeline as pipeline_main
from bdsa.commands.sweep.pipeline import Pipeline, as_words


@pytest.mark.parametrize("arguments, expected", [
    (["experiment=cifar10_dense", "budgets.targets=[0.3,0.5]"],
     "name=dense-cifar_resnet8-seed0, and a pipeline has many: add name=null"),
    (["experiment=cifar10_dense", "budgets.targets=[0.3]"], "add name=null"),
    (["pipeline.metrics=[l1],[l2]"],
     "pipeline.metrics=[l1],[l2] is several values, and a pipeline has one of it: write pipeline.metrics=[l1,l2]"),
    (["pipeline.single.recipe.epochs=1,2"], "pipeline.single.recipe.epochs=1,2 is several values"),
    (["name=null", "data.workers=0,1"], "have one folder"),
    (["pipeline.multi.recipe.lr=-1"], "recipe.lr=-1"),
    (["sweep=awareness"], "awareness=none,l1,l2 is the pipeline's own to choose"),
    (["sweep=imagenet_single"], "rows"),
    (["awareness.row=x"], "awareness.row=x is the pipeline's own to choose"),
])
def test_nothing_is_trained_for_what_cannot_be(tmp_path, arguments, expected):
    outcome = run(pipeline_main, [*TINY, f"out={tmp_path}/runs", *arguments])
    assert outcome.code == 1 and expected in outcome.err, outcome.err
    assert outcome.err.strip().count("\n") == 0 and not list(tmp_path.iterdir())


def test_words_of_the_stages_are_quoted_as_hydra_reads_them() -> None:
    words = as_words({"teacher": {"weights": "/größe/a b.pt", "kind": "checkpoint"}, "recipe": {"epochs": 3}})
    found = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(words)}
    assert found == {"teacher.weights": "/größe/a b.pt", "teacher.kind": "checkpoint", "recipe.epochs": 3}


@pytest.mark.parametrize(("arguments", "params", "own"), [
    (["sweep=seeds"], {"trainer.seed": "0,1"}, True), ([], {}, True), (["recipe=quickstart"], {}, False),
    (["sweep=mine"], {"recipe": "quickstart,pipeline"}, False), (["experiment=cifar10_resnet20"], {}, False)])
def test_the_recipe_that_it_chooses_is_a_word_of_its_runs(arguments: list[str], params: dict, own: bool) -> None:
    """Else the command that a run keeps would make another one."""
    config = OmegaConf.create({"out": "runs/mine", "hydra": {"runtime": {"choices": {"recipe": "pipeline"}}}})
    words = Pipeline._own_choices(SimpleNamespace(config=config, params=params), arguments)
    assert words == [*["recipe=pipeline"] * own, "tracker.group=mine"]
