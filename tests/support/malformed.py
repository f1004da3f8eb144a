"""Command lines that are wrong by construction: each must end with one line of error, and none may be accepted."""
from __future__ import annotations

import random
from dataclasses import fields, is_dataclass
from typing import Any

from bdsa.config.benchmark import BenchmarkConfig
from bdsa.config.commands import CompareConfig, EvaluateConfig, ExportConfig, ReportConfig, TargetsConfig
from bdsa.config.pipeline import PipelineConfig
from bdsa.config.settings import TrainConfig
from bdsa.config.visualize import VisualizeConfig

# command -> its schema, and what makes its line whole but for the fault
COMMANDS: dict[str, tuple[type, list[str]]] = {
    "train": (TrainConfig, ["tracker=none"]),
    "benchmark": (BenchmarkConfig, []),
    "pipeline": (PipelineConfig, ["tracker=none"]),
    "evaluate": (EvaluateConfig, ["checkpoint=nowhere/best.pt"]),
    "visualize": (VisualizeConfig, ["checkpoint=nowhere/best.pt"]),
    "export": (ExportConfig, ["checkpoint=nowhere/best.pt"]),
    "targets": (TargetsConfig, ["nowhere"]),
    "report": (ReportConfig, ["nowhere"]),
    "compare": (CompareConfig, ["nowhere", "elsewhere"]),
}
NUMBERS = ("nan", "inf", "-inf", "-1", "1e400", "99999999999999999999999", "'1 2'", "abc", "[1,[2]]", "{a:1}", "0x10q")
CHOICES = ("nothing_like_it", "'a b'", "[x]", "{a:b}", "5")
FLAGS = ("maybe", "[true]", "{a:b}", "yess")
BROKEN = ("[0.3,0.5", "{a", "'open", "${", "${nowhere}", "a b]", "(", "=")


def settings(config: Any, prefix: str = "") -> list[tuple[str, str, Any]]:
    """(dotted name, type as written, rule) of every setting."""
    found = []
    for item in fields(config):
        value, name = getattr(config, item.name), f"{prefix}{item.name}"
        if is_dataclass(value):
            found += settings(value, f"{name}.")
        elif "rule" in item.metadata:
            found.append((name, str(item.type).removesuffix(" | None"), item.metadata["rule"]))
    return found


def lines(seed: int = 0) -> list[tuple[str, list[str]]]:
    """All of them, shuffled: (command, arguments)."""
    found = []
    for command, (schema, rest) in COMMANDS.items():
        for name, kind, rule in settings(schema()):
            numeric = kind.replace("list[", "").rstrip("]") in ("int", "float")
            wrong: list[str] = []
            if numeric:
                wrong = [f"[{v}]" if kind.startswith("list") else v for v in NUMBERS]
                if rule.bounded and rule.check is None and rule.at_least is not None and rule.at_least < -1:
                    wrong = [v for v in wrong if "-1" not in v]
            elif rule.choices is not None:
                wrong = [f"[{v}]" if kind.startswith("list") and v[0] != "[" else v for v in CHOICES]
            elif kind == "bool":
                wrong = list(FLAGS)
            found += [(command, [*rest, f"{name}={value}"]) for value in wrong]
            found += [(command, [*rest, f"{name}={value}"]) for value in BROKEN]
            found.append((command, [*rest, f"{name}x=1"]))
            found.append((command, [*rest, f"{name}=${{{name}}}"]))  # of itself
            found.append((command, [*rest, f"~{name}"]))
    random.Random(seed).shuffle(found)
    return found
