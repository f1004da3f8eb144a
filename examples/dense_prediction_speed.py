"""Measure what an image takes in the networks that examples/dense_prediction.py trained, backbone alone and whole.

    python examples/dense_prediction_speed.py task=segment      # a minute or two, most of it to compile
    python examples/dense_prediction_speed.py task=detect size=512 out=runs/scenes_detect.safetensors

Scenes of the test split, one at a time, at each budget, sparsely, beside the dense backbone: PyTorch compiled with
constant weights, and OpenVINO where it is installed; each in float32 and in bfloat16. Neck and heads are the same
in all rows, compiled. Rounds take turns; medians are printed. Speedups are over the fastest dense row of the precision.
"""
from __future__ import annotations

import copy
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from scene_models import scene_model, take
from torch import Tensor, nn

from bdsa.data.digit_scenes import DigitScenes

words = dict((word.split("=", 1) + [""])[:2] for word in sys.argv[1:])
TASK, QUICK = words.get("task", "segment"), "quick" in words
KEPT = Path(words.get("out", f"runs/scenes_{TASK}.safetensors")).with_suffix(".pt")
SIZES = [int(words["size"])] if "size" in words else [128] if QUICK else [256, 512]
SCENES, ROUNDS = (1, 1) if QUICK else (8, 7)
BACKEND = "eager" if QUICK else "inductor"
torch._inductor.config.freezing = True                               # weights are constants to torch.compile
torch._dynamo.config.recompile_limit = 64                            # each size, precision and engine has its own code


class Ran(nn.Module):
    """A backbone in its own precision, whatever the heads around it do."""

    def __init__(self, run: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.run = run

    def forward(self, images: Tensor) -> list[Tensor]:
        with torch.autocast("cpu", enabled=False):
            return list(self.run(images))


def openvino(backbone: nn.Module, image: Tensor, half: bool) -> Callable[[Tensor], list[Tensor]]:
    """The dense backbone in OpenVINO."""
    import openvino as ov

    with torch.autocast("cpu", enabled=False):                       # it chooses the type itself
        model = ov.convert_model(backbone, example_input=image, input=[tuple(image.shape)])
    request = ov.Core().compile_model(model, "CPU", {
        "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32"}).create_infer_request()

    def run(images: Tensor) -> list[Tensor]:
        found = request.infer({0: images.contiguous().numpy()}, share_inputs=True)
        return [torch.from_numpy(found[i]) for i in range(len(found))]

    return run


def compiled(model: nn.Module, size: int, half: bool) -> dict[str, tuple[nn.Module, nn.Module]]:
    """The ways to run the backbone, and the whole with each, by name; all have run once for images of this size."""
    image = scenes[size][0]
    dense = model.backbone.backbone
    own = copy.deepcopy(dense)
    own.execution, own.precision, own.body.watch_weights = "sparse", "bfloat16" if half else "float32", "never"
    fast = torch.compile(copy.deepcopy(dense), dynamic=False, backend=BACKEND)

    def eager(images: Tensor) -> list[Tensor]:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            return fast(images)

    ways: dict[str, nn.Module] = {"dense, PyTorch compiled": Ran(eager)}
    if importlib.util.find_spec("openvino") and not QUICK:
        ways["dense, OpenVINO"] = Ran(openvino(dense, image, half))
    for budget in dense.budgets:
        ways[f"budget {budget:g}"] = Ran(lambda images, at=budget: own(images, budget=at))
    parts = [torch.compile(copy.deepcopy(part), dynamic=False, backend=BACKEND)
             for part in (model.backbone.neck, model.head)]
    found = {}
    for name, way in ways.items():
        whole = copy.copy(model)                                     # the same modules, but for those below
        whole._modules = {**model._modules, "backbone": copy.copy(model.backbone), "head": parts[1]}
        whole.backbone._modules = {**model.backbone._modules, "backbone": way, "neck": parts[0]}
        found[name] = way, whole
    return found


def milliseconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - started)


def called(model: nn.Module, image: Tensor) -> Any:
    return model(list(image) if TASK == "detect" else image)


model = scene_model(TASK).eval()
if not KEPT.exists():
    sys.exit(f"{KEPT} is not there: python examples/dense_prediction.py task={TASK} makes it")
model.load_state_dict(torch.load(KEPT)["model"])
scenes = {size: [image[None].contiguous(memory_format=torch.channels_last)
                 for image, _ in DigitScenes("test", size, SCENES)] for size in SIZES}
with torch.inference_mode():
    for size in SIZES:
        take(model, size)
        print(f"{TASK}, {size}x{size}, {torch.get_num_threads()} threads, ms an image (speedup)")
        for half in (False, True):
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                ways = compiled(model, size, half)
                taken: dict[str, tuple[list[float], list[float]]] = {name: ([], []) for name in ways}
                for turn in range(ROUNDS + 1):                       # the first compiles, records and does not count
                    for name, (backbone, whole) in ways.items():
                        for rounds, run in zip(taken[name], (backbone, lambda image, of=whole: called(of, image))):
                            rounds += [[milliseconds(lambda i=image, r=run: r(i)) for image in scenes[size]]][:turn]
                times = {name: [median(sum(each) / len(each) for each in rounds) for rounds in both]
                         for name, both in taken.items()}
            fastest = [min(both[i] for name, both in times.items() if "dense" in name) for i in range(2)]
            for name, (part, whole) in times.items():
                print(f"  {'bfloat16' if half else 'float32':8} {name:24} backbone {part:6.2f} "
                      f"({fastest[0] / part:.2f}) whole {whole:6.2f} ({fastest[1] / whole:.2f})", flush=True)
