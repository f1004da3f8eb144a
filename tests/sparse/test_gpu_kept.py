"""What inferences on a GPU keep, CUDA graphs and copies of contents: by stand-ins, without a GPU."""
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("triton")

from bdsa.sparse.gpu import contents, graphs  # noqa: E402
from bdsa.sparse.gpu.graphs import UNUSED, Captured, Graphs  # noqa: E402
from bdsa.sparse.workspace import RECORDINGS  # noqa: E402


class FakeGraph:
    """Stands in for a CUDA graph: repeats the work on the memory that it was captured with."""

    def __init__(self, work: object, image: torch.Tensor, masks: list[torch.Tensor], log: list[str]) -> None:
        log.append("captured")
        self.made = Captured(self, image.clone(), [mask.clone() for mask in masks], torch.zeros(len(image)))
        self.work, self.log = work, log

    def replay(self) -> None:
        self.log.append("replayed")
        self.made.logits.copy_(self.work(self.made.image, self.made.masks))


def work(image: torch.Tensor, masks: list[torch.Tensor]) -> torch.Tensor:
    return image.sum(dim=1) + sum(mask.sum() for mask in masks)


def test_an_inference_that_comes_again_is_captured_once_and_replayed_with_new_images_and_masks() -> None:
    log: list[str] = []
    graphs = Graphs(lambda *what: FakeGraph(*what, log).made)
    results = []
    for i in range(4):
        image, masks = torch.full((2, 3), float(i)), [torch.full((2,), i % 2 == 0)]
        results.append(graphs.run("a", work, image, masks))
        assert torch.equal(results[-1], work(image, masks))
        assert log == ["captured", "replayed", "replayed"][:i]
    assert torch.equal(results[2], torch.full((2,), 8.0))  # the earlier results stay


def test_graphs_in_use_stay_and_what_comes_once_or_takes_turns_with_many_runs_as_it_is() -> None:
    """Of a cascade each batch leaves another number of images for the second look."""
    log: list[str] = []
    graphs, image = Graphs(lambda *what: FakeGraph(*what, log).made), torch.ones(1, 1)
    for key in ["all", "all", *range(3 * RECORDINGS)]:
        graphs.run(key, work, image, [])
    assert log == ["captured"] and list(graphs.kept) == ["all"]
    for _ in range(5):
        for key in range(RECORDINGS):
            graphs.run(key, work, image, [])
            graphs.run("all", work, image, [])
    assert log.count("captured") == RECORDINGS == len(graphs.kept), "one of them runs as it is, nine times of nine"
    for _ in range(UNUSED + 1):
        graphs.run(RECORDINGS - 1, work, image, [])
    assert log.count("captured") == RECORDINGS + 1 and "all" in graphs.kept, "in the place of what is not used any more"


def test_a_graph_made_in_inference_mode_serves_other_modes() -> None:
    log: list[str] = []
    graphs, image = Graphs(lambda *what: FakeGraph(*what, log).made), torch.ones(2, 3)
    with torch.inference_mode():
        for _ in range(2):
            graphs.run("a", work, image.clone(), [torch.ones(2)])
    with torch.no_grad():
        assert torch.equal(graphs.run("a", work, 2 * image, [torch.ones(2)]), work(2 * image, [torch.ones(2)]))
    assert log == ["captured", "replayed"]


class Devices:
    """Which device is the current one, where there is none."""

    def __init__(self, log: list[object]) -> None:
        self.log = log

    @contextmanager
    def __call__(self, device: torch.device) -> Iterator[None]:
        self.log.append(("on", device))
        yield
        self.log.append(("off", device))


def test_work_is_captured_on_the_device_of_its_image_for_the_stream_of_the_caller(monkeypatch: pytest.MonkeyPatch
                                                                                    ) -> None:
    """A stream for each caller's: graphs that are replayed at one time share no workspace of cuBLAS."""
    log: list[object] = []

    @contextmanager
    def graph(made: object, stream: object, capture_error_mode: str) -> Iterator[None]:
        assert graphs._one.locked(), "PyTorch captures one at a time"
        log.append(stream)
        yield

    monkeypatch.setattr(graphs, "current", Devices(log))
    monkeypatch.setattr(graphs, "_stream", lambda device, caller: ("stream for", caller))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=7))
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    image = torch.ones(2, 3)
    made = graphs.capture(work, image, [torch.ones(2)])
    assert log == [("on", image.device), ("stream for", 7), ("off", image.device)]
    assert torch.equal(made.logits, work(image, [torch.ones(2)])) and made.image is not image


def test_contents_are_compared_on_their_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[object] = []
    monkeypatch.setattr(contents, "current", Devices(log))
    monkeypatch.setattr(contents, "launch", lambda *what, **constants: log.append("compared"))
    weight = torch.ones(5)
    assert contents.GpuContents([weight]).same()
    assert log == [("on", weight.device), "compared", ("off", weight.device)]


def test_what_cannot_be_captured_runs_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(*what: object) -> Captured:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    graphs = Graphs(refuse)
    for _ in range(3):
        assert torch.equal(graphs.run("a", work, torch.ones(2, 3), []), torch.full((2,), 3.0))
    assert len(caplog.records) == 1 and "without a CUDA graph" in caplog.text
