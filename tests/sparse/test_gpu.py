"""Sparse execution on GPUs: the kernels in Triton's interpreter, the rest without a GPU, and all with one."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from sparse_cases import NETWORKS, images_of, network_of
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bdsa.commands.benchmark import gpu_latency
from bdsa.method.masks import MaskUnit
from bdsa.sparse import scores
from bdsa.sparse.auto import ALWAYS, NEVER
from bdsa.sparse.dense import Convolution
from bdsa.sparse.gpu import device
from bdsa.sparse.packing import Form, pack, pack_groups
from bdsa.sparse.program import _on_cpu

pytest.importorskip("triton")

from bdsa.sparse.gpu import launch, tiles  # noqa: E402
from bdsa.sparse.gpu.dense import on_gpu  # noqa: E402
from bdsa.sparse.gpu.executor import GpuExecutor  # noqa: E402
from bdsa.sparse.gpu.ways import find_ways  # noqa: E402

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_kernels_give_what_masked_execution_gives() -> None:
    """In a process of its own: Triton looks at TRITON_INTERPRET when it is imported."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, ROOT / "tests/support/gpu_cases.py"], capture_output=True, text=True,
                          env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok: half resnet26" in done.stdout


@pytest.mark.slow
def test_the_benchmark_of_a_gpu_runs_to_its_end(tmp_path: Path) -> None:
    """Every line but the capture of graphs, so that ten minutes on a GPU are not lost to a slip."""
    done = subprocess.run([sys.executable, ROOT / "benchmarks/gpu.py", "--dry", "--out", tmp_path / "gpu.json"],
                          capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "gpu.json").read_text())
    (inference,), (training,) = found["inference"], found["training"]
    assert set(inference["peers"]) == {"eager", "folded", gpu_latency.OWN_DENSE}
    assert [row["budget"] for row in inference["rows"]] == [0.3, 0.5]
    assert [row["name"] for row in training["rows"]] == ["dense", "single", "multi", "multi+teacher"]
    assert gpu_latency.table_of(inference).row_count == 5 and "| cifar_resnet8 | 1 | 0.3 |" in done.stdout


def executor_for(name: str = "cifar_resnet8") -> GpuExecutor:
    return GpuExecutor.for_maps(network_of(name), "b040", torch.float32)


@pytest.mark.parametrize("name", ["resnet26", "convnext_atto"])
def test_an_inference_waits_for_nothing_and_moves_no_row_to_the_host(name: str) -> None:
    """What waits for a GPU would be one of these operators; they are in none that PyTorch runs between the kernels."""
    executor, images = executor_for(name), images_of((2, 64, 48))
    with torch.inference_mode(), launch.watched(lambda *start: None), torch.profiler.profile() as profiler:
        executor(images, None, False)
    seen = {event.key for event in profiler.key_averages()}
    assert "bdsa::decide_and_list" in seen
    assert not seen & {"aten::item", "aten::nonzero", "aten::index_put_", "aten::_local_scalar_dense", "aten::index"}


@pytest.mark.parametrize(("told", "expected"), [("tf32", "tf32"), ("ieee", "ieee"), ("none", "ieee")])
def test_either_setting_of_pytorch_says_how_float32_is_multiplied(told: str, expected: str) -> None:
    matmul = torch.backends.cuda.matmul
    if not hasattr(matmul, "fp32_precision"):
        pytest.skip("a PyTorch with allow_tf32 alone")
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = told
        assert (tiles.precision(torch.float32), tiles.precision(torch.bfloat16)) == (expected, "ieee")
    finally:
        matmul.fp32_precision = before


@pytest.mark.parametrize("told", [True, False])
def test_the_older_setting_says_it_too(told: bool) -> None:
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    try:
        matmul.allow_tf32 = told
        assert tiles.precision(torch.float32) == ("tf32" if told else "ieee")
    finally:
        matmul.allow_tf32 = before


@pytest.mark.parametrize("sparse, masked, whole, expected", [
    ([1, 3, 1], [2, 2, 2], [5, 6], [ALWAYS, NEVER, ALWAYS]),
    ([1, 3, 1], [2, 2, 2], [8, 6], [NEVER] * 3),              # slower as a whole than with all blocks masked
    ([1, 1, 1], [2, 2, 2], [6.2, 6], [ALWAYS] * 3),           # within the tolerance
])
def test_auto_takes_the_faster_way_of_a_block_and_never_loses(sparse: list, masked: list, whole: list, expected: list
                                                              ) -> None:
    executor, images = executor_for(), images_of((1, 32, 32))
    times = iter([t for pair in zip(sparse, masked) for t in pair] + whole)

    def seconds(once: object) -> float:
        once()
        return next(times)

    with torch.inference_mode(), launch.watched(lambda *start: None):
        assert find_ways(executor, images, None, seconds) == expected
    assert executor.ways == tuple(None if way == ALWAYS else way for way in expected)


@pytest.mark.parametrize("kind, hip, capability, said", [
    ("cpu", None, (9, 0), "do not run on a CPU"), ("mps", None, (9, 0), "not for mps"),
    ("cuda", "6.2", (9, 0), "ROCm"), ("cuda", None, (7, 5), "needs? compute capability 8.0, and this GPU has 7.5"),
    ("cuda", None, (9, 0), None)])
def test_one_line_says_why_the_kernels_do_not_run(monkeypatch: pytest.MonkeyPatch, kind: str, hip: str | None,
                                                  capability: tuple[int, int], said: str | None) -> None:
    monkeypatch.setattr(torch.version, "hip", hip)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    reason = device.unavailable(torch.device(kind))
    assert reason is None if said is None else __import__("re").search(said, reason)


def test_without_triton_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: None)
    assert "pip install triton" in device.unavailable(torch.device("cuda"))


def test_images_decide_the_type_of_maps() -> None:
    x = SimpleNamespace(dtype=torch.float64, device=torch.device("cuda"))
    assert "not torch.float64" in device.refusal(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert device.maps_dtype(torch.ones(1)) == torch.bfloat16
    assert device.maps_dtype(torch.ones(1).half()) == torch.float16


def test_packed_weights_stay_on_the_device_of_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = lambda unit: (unit.conv.weight.new_zeros(16, scores.COLUMNS), 0.0)  # noqa: E731  its bias is a number
    monkeypatch.setattr(scores, "_columns", columns)
    with FakeTensorMode(), torch.device("cuda"):
        layer = nn.Conv2d(16, 16, 3, padding=1)
        made = [pack(layer.weight.new_zeros(9, 16, 24), layer.bias.new_zeros(24), Form(8)),
                pack_groups(layer.weight[:, :4], layer.bias, 4, Form(8, torch.bfloat16)),
                scores.Board([MaskUnit(16)] * 2, Form()),
                on_gpu(Convolution(layer, None, True, False, Form()), torch.float16)]
        for each in made:
            assert (each.weight.device.type, each.bias.device.type) == ("cuda", "cuda"), each


def test_a_program_is_of_a_copy_on_the_cpu_where_the_network_is_not() -> None:
    network = network_of("cifar_resnet8")
    assert _on_cpu(network) is network
    with FakeTensorMode(allow_non_fake_inputs=True):
        for module in network.modules():
            for kept in (module._parameters, module._buffers):
                kept.update({name: torch.empty_like(t, device="cuda") for name, t in kept.items() if t is not None})
        copied = _on_cpu(network)
    assert {t.device.type for t in copied.state_dict().values()} == {"cpu"}
    assert {t.device.type for t in network.state_dict().values()} == {"cuda"}
    assert type(copied) is type(network) and copied.budgets == network.budgets


gpu = pytest.mark.skipif(not torch.cuda.is_available() or device.unavailable(torch.device("cuda")) is not None,
                         reason="needs a GPU")


@gpu
@pytest.mark.parametrize("name", ["resnet18", "resnet26", "resnext50_32x4d", "convnext_atto", "convnextv2_atto",
                                  "cifar_resnet14 submanifold", "resnet26 submanifold", "resnext50_32x4d submanifold"])
def test_sparse_equals_masked_on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network, images = network_of(name, **NETWORKS[name]).cuda(), images_of((3, 65, 96)).cuda()
    with torch.inference_mode():
        expected, usage = network(images, budget=0.4, return_usage=True)
        for network.execution in ("sparse", "auto"):
            for _ in range(2):  # captured, then replayed
                found = network(images, budget=0.4, masks=usage.masks)
                assert (found - expected).abs().max() < 1e-3 * (expected.max() - expected.min())
            counted, same = network(images, budget=0.4, return_usage=True)
            assert sum(int((a != b).sum()) for a, b in zip(usage.masks, same.masks)) <= 2  # logits within rounding of 0


@gpu
def test_an_inference_on_a_gpu_waits_for_nothing() -> None:
    network, images = network_of("resnet26").cuda(), images_of((2, 64, 64)).cuda()
    network.execution, network.watch_weights = "sparse", False
    with torch.inference_mode():
        for _ in range(2):
            network(images, budget=0.4)
        torch.cuda.set_sync_debug_mode("error")
        try:
            network(images, budget=0.4)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@gpu
def test_streams_do_not_disturb_each_other() -> None:
    network = network_of("resnet26").cuda()
    network.execution = "sparse"
    batches = [images_of((2, 64, 64)).cuda() + shift for shift in (0.0, 0.3, -0.3)]
    with torch.inference_mode():
        expected = [network(x, budget=0.4) for x in batches]
        streams = [torch.cuda.Stream() for _ in batches]
        torch.cuda.synchronize()
        for _ in range(3):
            found = []
            for stream, x in zip(streams, batches):
                with torch.cuda.stream(stream):
                    found.append(network(x, budget=0.4))
            torch.cuda.synchronize()
            assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(found, expected))
