"""The dense engines of bdsa-benchmark: what they compute, at which precision, and what is said where one is missing."""
from __future__ import annotations

import json

import pytest
import torch
from command_line import BRIEF, run
from network_cases import adaptive, images_of, perturb
from torch import nn

import bdsa.commands.benchmark.engines
from bdsa.commands.benchmark.dense_engine import DenseEngine, logits_of
from bdsa.commands.benchmark.engines import check_agreement, dense_engines
from bdsa.commands.benchmark.latency import fastest_by_precision
from bdsa.commands.benchmark.own_engine import timed_row
from bdsa.commands.benchmark.quantised import int8_engines
from bdsa.commands.entry_points import benchmark as benchmark_main
from bdsa.errors import UserError
from bdsa.machine import has_compiler
from bdsa.models.dense_copy import dense_copy

SMALL = [*BRIEF, "latency.execution=masked", "latency.precision=float32", "model=cifar_resnet8",
         "latency.peers=[eager,folded]"]


def test_an_engine_that_is_not_installed_is_said_to_be_missing(monkeypatch, tmp_path):
    there = bdsa.commands.benchmark.engines.importlib.util.find_spec
    monkeypatch.setattr(bdsa.commands.benchmark.engines.importlib.util, "find_spec",
                        lambda name, *rest: None if name == "openvino" else there(name, *rest) or name == "onnx")
    outcome = run(benchmark_main, [*SMALL, f"out={tmp_path}/a", "latency.batch_sizes=[1]", "budgets.targets=[0.5]",
                                   "latency.peers=[eager,openvino]"])
    assert outcome.code == 0, outcome.err
    said = "openvino is left out, openvino not being installed: pip install 'bdsa[peers]'"
    made = json.loads((tmp_path / "a/benchmark.json").read_text())
    assert f"note: {said}" in outcome.out and made["missing"] == [said]
    assert {peer["engine"] for peer in made["peers"]} == {"eager"}
    outcome = run(benchmark_main, [*SMALL, f"out={tmp_path}/b", "latency.peers=[openvino]"])
    assert outcome.code == 1 and "no dense engine is left" in outcome.err and said in outcome.err


def test_an_engine_that_gives_other_logits_is_an_error(monkeypatch, tmp_path):
    def folded(network, inputs, bfloat16):
        other = torch.tensor([0.1] + [0.0] * 9)
        return [DenseEngine("folded", "float32", lambda number: network(inputs[number]) + other)]

    monkeypatch.setitem(bdsa.commands.benchmark.engines.BUILDERS, "folded", folded)
    outcome = run(benchmark_main, [*SMALL, f"out={tmp_path}/out", "latency.batch_sizes=[1]"])
    assert outcome.code == 1 and "folded in float32 gives other logits (apart by 0.1" in outcome.err
    assert not (tmp_path / "out").exists()


def test_how_far_logits_may_be_apart():
    expected = torch.tensor([[0.0, 10.0]])
    assert check_agreement("a", expected + 0.005, expected) == pytest.approx(5e-4, rel=1e-3)
    with pytest.raises(UserError, match="a gives other logits"):
        check_agreement("a", expected + 0.5, expected)
    assert check_agreement("a", expected + 0.5, expected, 0.1) == pytest.approx(0.05, rel=1e-3)
    with pytest.raises(UserError, match="apart by nan"):
        check_agreement("a", expected * float("nan"), expected, 0.1)


@pytest.fixture(scope="module")
def dense():
    """A dense CIFAR ResNet-20, its inputs, and its logits of them."""
    inputs = [images_of((32, 32), batch=3), torch.ones(3, 3, 32, 32)]
    network = dense_copy(perturb(adaptive("cifar_resnet20"), inputs[0]))
    with torch.inference_mode():
        return network, inputs, torch.cat([network(x) for x in inputs])


@pytest.mark.parametrize("name", ["eager", "folded", "onnxruntime", "openvino"])
def test_engines_run_at_their_own_precision_and_held_to_float32(dense, name):
    if name in ("onnxruntime", "openvino"):
        pytest.importorskip(name)
        pytest.importorskip("onnx")
    network, inputs, expected = dense
    engines = {e.precision: e for e in dense_engines([name], network, inputs, bfloat16=True)}
    assert list(engines)[0] == "float32" and {e.name for e in engines.values()} == {name}
    spread = float(expected.max() - expected.min())
    for precision, engine in engines.items():
        logits = logits_of(engine.run, len(inputs))
        assert engine.logits_apart == pytest.approx(float((logits - expected).abs().max()) / spread, abs=1e-6)
        assert engine.logits_apart < (1e-4 if precision == "float32" else 0.1)
    if name in ("eager", "folded"):                             # else it is the engine that decides
        assert engines["bfloat16"].logits_apart > 1e-4 and engines["bfloat16"].way in ("a bfloat16 copy", "autocast")
        assert len(dense_engines([name], network, inputs, bfloat16=False)) == 1
    with torch.inference_mode():
        again = torch.cat([network(x) for x in inputs])         # the network computes what it did
    assert torch.allclose(again, expected, atol=1e-5 * spread)


@pytest.mark.slow
@pytest.mark.skipif(not has_compiler(), reason="torch.compile needs a C++ compiler")
def test_compiled_networks_agree():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5)).eval()
    engines = dense_engines(["compile", "frozen"], network, [torch.randn(2, 3, 8, 8)], bfloat16=True)
    assert [e.title for e in engines] == ["compile in float32", "compile in bfloat16", "frozen in float32",
                                          "frozen in bfloat16"]
    compiled, half, frozen, _ = (logits_of(e.run, 1) for e in engines)
    assert torch.allclose(compiled, frozen, atol=1e-5) and not torch.allclose(compiled, half, atol=1e-5)


@pytest.mark.slow
def test_quantised_engines_are_calibrated_and_never_the_fastest_float_engine(dense):
    for package in ("onnx", "onnxruntime", "openvino", "nncf"):
        pytest.importorskip(package)
    network, inputs, _ = dense
    engines = int8_engines(network, inputs, torch.cat([images_of((32, 32), batch=9), torch.ones(3, 3, 32, 32)]))
    assert [e.title for e in engines] == ["onnxruntime in int8", "openvino in int8"]
    assert all(1e-4 < e.logits_apart < 0.5 for e in engines)
    rivals = [{"engine": "a", "title": f"a in {p}", "precision": p, "ms": ms}
              for p, ms in (("float32", 5.0), ("bfloat16", 3.0), ("int8", 1.0))]
    fastest = fastest_by_precision(rivals)
    assert fastest["any"]["title"] == "a in bfloat16" and fastest["int8"]["ms"] == 1.0
    row = timed_row({"precision": "float32", "macs_ratio": 0.5}, [2.0, 2.0, 9.0], fastest)
    assert (row["ms"], row["speedup"], row["speedup_same_precision"], row["speedup_int8"], row["efficiency"]) == (
        2.0, 1.5, 2.5, 0.5, 0.75)
