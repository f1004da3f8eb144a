"""The examples run as a user would run them: the loop from a shell, the notebook from its first cell to its last."""
from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bdsa
from bdsa.models.checkpoints import read_checkpoint

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"
TWO_RANKS = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d", "--rdzv-endpoint",
             "localhost:0", "--local-addr", "localhost")
NOTEBOOK = EXAMPLES / "where_it_looks.ipynb"
# All code cells in one namespace, then the titles of what was drawn: all at once, or as the slider moves.
RUN_CELLS = """
import json, sys
notebook, widgets = sys.argv[1:]
if widgets == "without":
    sys.modules["ipywidgets"] = None  # importing it fails, as where it is not installed
names = {}
for cell in json.load(open(notebook))["cells"]:
    if cell["cell_type"] == "code":
        exec("".join(cell["source"]), names)
from matplotlib import pyplot
shown = [axes.get_title() for axes in pyplot.gcf().axes]
if widgets == "with":
    shown = []
    for label, budget in names["slider"].options:
        names["slider"].value = budget
        shown += [axes.get_title() for axes in pyplot.gcf().axes]
print(json.dumps({"shown": shown, "photos": names["names"], "classes": names["classes"]}))
"""


def run(*command: object, folder: Path) -> str:
    """The output of a Python command on one thread, without a screen."""
    done = subprocess.run([sys.executable, *map(str, command)], cwd=folder, capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"})
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("example, needs", [("own_loop", None), ("lightning_loop", "lightning"),
                                            ("accelerate_loop", "accelerate"), ("ddp_loop", None)])
def test_the_file_of_a_loop_gives_a_calibrated_network(tmp_path, example, needs):
    if needs is not None:
        pytest.importorskip(needs, reason=f"the example is of {needs}, an optional package: pip install bdsa[examples]")
    launcher = TWO_RANKS if example == "ddp_loop" else ()
    out = run(*launcher, EXAMPLES / f"{example}.py", "--quick", "--out", "kept/network.safetensors", folder=tmp_path)
    network = bdsa.load(tmp_path / "kept/network.safetensors")
    assert network.budgets.plain() == [0.3, 0.5, 0.7, 1.0]
    images = torch.rand(2, 3, 40, 40)
    with torch.inference_mode():
        logits = [network(images, budget=budget) for budget in network.budgets]
    assert all(each.shape == (2, 10) and each.isfinite().all() for each in logits)
    assert not torch.equal(logits[0], logits[-1])  # budgets differ
    after = [float(f) for f in re.findall(r"before the calibration, ([\d.]+) after it", out)]
    assert after == pytest.approx([0.3, 0.5, 0.7], abs=0.05)
    rows = (read_checkpoint(tmp_path / "kept/network.safetensors").get("results") or {}).get("rows", [])
    assert bool(rows) == (example == "own_loop")
    for row in rows:
        assert row["conditional_fraction"] == pytest.approx(row["budget"], abs=0.05)
        assert f"{row['conditional_fraction']:.3f}" in out


def test_the_notebook_is_short_and_holds_no_outputs():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert 0 < len(cells) <= 10
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in cells)


@pytest.mark.parametrize("widgets", ["with", "without"])
def test_every_cell_of_the_notebook_runs_and_shows_every_budget(widgets):
    if widgets == "with":
        pytest.importorskip("ipywidgets")
    answer = json.loads(run("-c", RUN_CELLS, NOTEBOOK, widgets, folder=EXAMPLES).splitlines()[-1])
    titles = [title.splitlines() for title in answer["shown"] if title.startswith("budget ")]
    photos = 1 if widgets == "with" else len(answer["photos"])  # the slider shows one at a time
    assert [title[0].partition(":")[0] for title in titles] == ["budget 0.3", "budget 0.5", "budget 0.7"] * photos
    assert set(answer["photos"]) >= set(answer["shown"]) - {"\n".join(title) for title in titles}
    for first, fraction, macs, times in titles:
        assert first.partition(": ")[2] in answer["classes"] and 0 < float(fraction.split()[-1]) < 1
        assert "M MACs" in macs and times.endswith("ms")
