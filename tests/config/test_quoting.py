"""A value that Hydra cannot read: the error shows how this very argument is quoted, and what it shows is right."""
from __future__ import annotations

import shlex

import pytest
from command_line import run
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from bdsa.commands.entry_points import train as train_main
from bdsa.commands.folder_arguments import folders_and_settings
from bdsa.commands.one_line import _of_config
from bdsa.config.commands import ReportConfig
from bdsa.config.overrides import check_overrides, expand
from bdsa.config.plugins import from_command_line
from bdsa.config.quoting import quoted_argument
from bdsa.config.settings import TrainConfig
from bdsa.config.visualize import VisualizeConfig
from bdsa.errors import UserError

PATHS = ["/a b/c=d,e", "/a=b", "/a[1]/x", "/a (copy)", "it's", 'a"b', "a\\", 'a\\"b\\', "/ä ö/日本", "a;b&c#d~e{f}!g<>",
         "[x", "x]", "'a=", "=", "${oc.env:HOME}=", "a\\\\=b"]


def meant(shown: str) -> tuple[str, object]:
    """Name and value of what a shell and Hydra make of an argument, interpolations resolved."""
    words = shlex.split(shown)
    assert len(words) == 1
    override = OverridesParser.create().parse_override(words[0])
    config = OmegaConf.create({"value": None})
    OmegaConf.update(config, "value", override.value())
    return override.key_or_group, OmegaConf.to_container(config, resolve=True)["value"]


@pytest.mark.parametrize("path", PATHS)
def test_a_quoted_argument_gives_the_value_back(path):
    assert meant(quoted_argument(f"data.root={path}")) == ("data.root", path)


@pytest.mark.parametrize("argument, schema, value", [
    ("data.root=/a b/c=d", TrainConfig, "/a b/c=d"), ("model.start=/r[1]/best.pt", TrainConfig, "/r[1]/best.pt"),
    ("out=/it's", TrainConfig, "/it's"), ("teacher.weights=/ä/w.pth", TrainConfig, "/ä/w.pth"),
    ("images=photos (1)", VisualizeConfig, "photos (1)"), ("images=[a=1.png,b c.png]", VisualizeConfig,
                                                             ["a=1.png", "b c.png"]),
    ("tracker.tags=[a=b]", TrainConfig, ["a=b"]), ("+model.args.act_layer=a=b", TrainConfig, "a=b"),
])
def test_the_error_shows_how_the_argument_is_quoted(argument, schema, value):
    with pytest.raises(UserError) as caught:
        check_overrides([argument], schema, {})
    said, _, shown = str(caught.value).partition("quoted for a shell: ")
    assert said.startswith(argument) and "\n" not in shown
    assert meant(shown) == (argument.partition("=")[0].lstrip("+"), value)
    check_overrides(shlex.split(shown), schema, {})


@pytest.mark.parametrize("argument", ["recipe.lr=1=2", "budgets.targets=[0.3", "no.such=a=b", "a\nb=c"])
def test_no_quotes_are_shown_where_they_would_not_help(argument):
    with pytest.raises(UserError) as caught:
        check_overrides([argument], TrainConfig, {})
    assert "quoted" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_comma_is_explained_where_it_was_no_sweep():
    outcome = run(train_main, ["data=folder", "data.root=/a,b"])
    said, _, shown = outcome.err.strip().partition("quoted for a shell: ")
    assert outcome.code == 1 and outcome.err.count("\n") == 1 and "--multirun runs each" in said
    assert meant(shown) == ("data.root", "/a,b")


def test_a_plug_ins_path_is_quoted_too():
    for path, value in (("mine=1/data.py", "mine=1/data.py"), ("[mine=1/data.py,b.py]", ["mine=1/data.py", "b.py"])):
        with pytest.raises(UserError) as caught:
            from_command_line([f"plugins={path}"])
        assert meant(str(caught.value).partition("quoted for a shell: ")[2]) == ("plugins", value)


def test_commands_of_folders_read_values_as_the_others_do(tmp_path):
    for path in ("/a b/c=d,e", "a\\\"b", "${x}"):
        words = shlex.split(quoted_argument(f"out={path}"))
        assert folders_and_settings([str(tmp_path), *words], ReportConfig, "out=report")[1].out == path
    assert folders_and_settings(["x,y", "out=a,b"], ReportConfig, "out=report")[1].out == "a,b"
    assert folders_and_settings(["title=a"], ReportConfig, "out=report") == ([], ReportConfig(title="a"))


@pytest.mark.parametrize("word", ["teacher=/größe/net.pt", "teacher=\"/größe/net.pt\"",
                                  "teacher='/größe/net.pt'"])
def test_a_teachers_file_is_taken_whatever_its_path_and_quotes(word: str) -> None:
    words = expand(word, {"teacher": ["none", "self", "model", "checkpoint"]})
    found = {o.key_or_group: o.value() for o in OverridesParser.create().parse_overrides(words)}
    assert found == {"teacher": "checkpoint", "teacher.weights": "/größe/net.pt"}


@pytest.mark.parametrize(("argument", "advised"), [("budgets.targets=[0.3],[0.5]", False), ("trainer.seed=0,1", False),
                                                   ("data.root=a,b", True)])
def test_lists_and_numbers_are_not_advised_to_be_one_text(argument: str, advised: bool) -> None:
    said = _of_config(Exception(f"Ambiguous value for argument '{argument}' 1. more"))
    assert f"{argument} is several values: --multirun runs each of them" in str(said)
    assert ("quoted for a shell" in str(said)) == advised
