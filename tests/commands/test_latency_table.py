"""bdsa-benchmark what=table: what was measured under other conditions has a name of its own."""
from __future__ import annotations

from typing import Any

from bdsa.commands.benchmark.latency_table import as_markdown


def measured(**conditions: Any) -> dict[str, Any]:
    dense = {"engine": "eager", "precision": "float32", "title": "eager in float32", "ms": 4.0, "logits_apart": 0.0}
    row = {"budget": 0.5, "precision": "float32", "macs_ratio": 0.5, "ms": 2.0, "speedup": 2.0, "efficiency": 1.0,
           "speedup_same_precision": 2.0, "speedup_int8": None, "logits_apart": 0.0}
    return {"model": "cifar_resnet8", "batch_size": 1, "masks": "synthetic", "images": "synthetic", "image_size": 32,
            "threads": 1, "execution": "sparse", "processor": "one", "rounds": 3, "versions": {}, "rows": [row],
            "fastest": {"any": dense, "float32": dense}, "peers": [dense], "break_even": [], "ways": [], **conditions}


def names(results: list[dict[str, Any]]) -> list[str]:
    """Of the short table's rows."""
    rows = [line for line in as_markdown(results).split("\n\n")[1].splitlines() if line.startswith("| cifar")]
    return [row.split(" | ")[0].removeprefix("| ") for row in rows]


def test_results_of_other_conditions_are_told_apart() -> None:
    assert names([measured(), measured(batch_size=8)]) == ["cifar_resnet8"] * 2
    assert names([measured(), measured(image_size=64)]) == ["cifar_resnet8, 32 pixels", "cifar_resnet8, 64 pixels"]
    found = names([measured(), measured(execution="auto"), measured(threads=4, execution="auto"), measured()])
    assert len({*found}) == 4 and found[0] == "cifar_resnet8, 1 thread, sparse execution, measurement 1"
