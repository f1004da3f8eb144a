"""The latency in a run's results: how fast its network is with its own masks on its own test images."""
from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import Dataset

from bdsa.errors import first_line
from bdsa.models.network import AdaptiveNetwork
from bdsa.ranks import world
from bdsa.report.terminal import counted
from bdsa.sparse.latency import latency_of

log = logging.getLogger(__name__)

IMAGES = 16  # that take turns: the cost of an inference depends on the image
OF_CASCADE, ROUNDS_OF_CASCADE = 128, 3  # of which a tenth may be looked at twice: each is timed in every round


def add_latency(results: dict[str, Any], network: AdaptiveNetwork, dataset: Dataset, device: torch.device,
                execution: str = "auto") -> None:
    """Measure, and add `latency` to the results and `latency_ms` and `speedup` to their rows.

    It takes some seconds, for the cascade of a large network a minute. Where it cannot be measured, `latency` says
    why, under "note", and the rows stay as they are.

    Args:
        results: the content of results.json.
        network: that the rows are of.
        dataset: gives (image, label); the first images are taken.
        device: where the network is.
        execution: "auto", "sparse" or "masked".
    """
    if device.type != "cpu":
        results["latency"] = {"note": "latency is measured on a CPU alone, and the network is on a GPU: "
                                      "bdsa-benchmark what=latency measures its checkpoint"}
    elif world() > 1:
        results["latency"] = {"note": f"latency is not measured while {world()} processes share the machine: "
                                      f"bdsa-benchmark what=latency measures the checkpoint"}
    else:
        count = min(OF_CASCADE if network.cascade else IMAGES, len(dataset))
        images = torch.stack([dataset[i][0] for i in range(count)])
        rounds = {"rounds": ROUNDS_OF_CASCADE} if network.cascade else {}
        try:
            results["latency"], rows = latency_of(network, images, [row["budget"] for row in results["rows"]],
                                                  execution=execution, **rounds)
        except Exception as error:  # want of memory, or parts of one's own: what was measured before is worth more
            log.warning("latency could not be measured", exc_info=error)
            results["latency"] = {"note": f"latency could not be measured: {first_line(error)}"}
            return
        for row in results["rows"]:
            row.update(rows[row["budget"]])


def latency_line(results: Mapping[str, Any]) -> str | None:
    """A sentence for below the table: what the latencies are of, or why there are none; None if none were asked for."""
    about = results.get("latency")
    if about is None or "note" in about:
        return about and about["note"]
    of = f", the mean of {about['images']}" if "images" in about else ""
    return (f"latency: of {counted(about['batch_size'], 'image')}{of}, {about['execution']} execution, "
            f"{counted(about['threads'], 'thread')}; speedup: over PyTorch's dense network ({about['dense_engine']}), "
            f"{about['dense_ms']:.2f} ms")
