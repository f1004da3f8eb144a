"""Every setting says what it means and which values it takes, and is held to it."""
from __future__ import annotations

import math
from dataclasses import fields, is_dataclass

import pytest

from bdsa.config.benchmark import BenchmarkConfig
from bdsa.config.commands import CompareConfig, EvaluateConfig, ExportConfig, ReportConfig, TargetsConfig
from bdsa.config.pipeline import PipelineConfig
from bdsa.config.schema import described_settings, setting_names
from bdsa.config.setting import check_settings, rules
from bdsa.config.settings import TrainConfig
from bdsa.config.visualize import VisualizeConfig
from bdsa.errors import UserError

SCHEMAS = (TrainConfig, EvaluateConfig, VisualizeConfig, BenchmarkConfig, PipelineConfig, ExportConfig, TargetsConfig,
           ReportConfig, CompareConfig)
NUMBERS = ("int", "float", "list[int]", "list[float]")


def numbers(schema):
    """Dotted name, holder, attribute, type and rule of every number of a schema."""
    def walk(config, prefix=""):
        for item in fields(config):
            value = getattr(config, item.name)
            if is_dataclass(value):
                yield from walk(value, f"{prefix}{item.name}.")
            elif (kind := str(item.type).removesuffix(" | None")) in NUMBERS:
                yield f"{prefix}{item.name}", config, item.name, kind, item.metadata["rule"]
    return walk(schema())


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda s: s.__name__)
def test_every_setting_says_what_it_means(schema):
    config = schema()
    lines = described_settings(schema, {})
    assert len(lines) == len(setting_names(schema)) == len(list(rules(config)))
    assert all(line.split(maxsplit=1)[1].strip() for line in lines)


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda s: s.__name__)
def test_every_number_has_bounds_on_both_sides(schema):
    assert [name for name, *_, rule in numbers(schema) if not rule.bounded] == []


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda s: s.__name__)
def test_every_bound_is_enforced_and_the_error_names_setting_and_value(schema):
    for name, holder, attribute, kind, rule in numbers(schema):
        before = getattr(holder, attribute)
        low = rule.at_least if rule.at_least is not None else rule.above
        high = rule.at_most if rule.at_most is not None else rule.below
        wrong = [math.nan, math.inf, -math.inf, -1.0, 1e30] if rule.check else [
            math.nan, math.inf, low - 1, *([low] if rule.above is not None else []), 2 * abs(high) + 1,
            *([high] if rule.below is not None else [])]
        for value in wrong:
            setattr(holder, attribute, [value] if kind.startswith("list") else value)
            with pytest.raises(UserError) as caught:
                check_settings(holder, name.removesuffix(attribute))
            assert rule.check or name in str(caught.value), (name, value)
            assert str(caught.value).count("\n") == 0
        setattr(holder, attribute, before)
        check_settings(holder)


def test_a_choice_gets_the_nearest_spelling():
    config = TrainConfig()
    config.recipe.schedule = "cosin"
    message = r"recipe.schedule 'cosin' \(did you mean 'cosine'\?\); known: cosine, multistep"
    with pytest.raises(UserError, match=message):
        check_settings(config)
    assert any("(cosine | multistep | constant)" in line for line in described_settings(TrainConfig, {}))


@pytest.mark.parametrize("section, name, wrong", [("budgets", "temperatures", {"a": 1}), ("tracker", "tags", [1]),
                                                  ("recipe", "milestones", "3"), ("data", "mean", None)])
def test_a_list_holds_what_it_declares(section, name, wrong):
    config = TrainConfig()
    setattr(getattr(config, section), name, [wrong])
    with pytest.raises(UserError, match=rf"{section}.{name}=.* is of the wrong type for list\["):
        check_settings(config)
