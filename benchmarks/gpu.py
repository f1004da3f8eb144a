"""Everything about sparse execution on a GPU in one run of ten minutes: is it right, then how fast.

    python benchmarks/gpu.py                # on a machine with an NVIDIA GPU of compute capability 8.0 or more
    python benchmarks/gpu.py --minutes 20   # also what is left out where the time is short: it says what
    python benchmarks/gpu.py --dry          # every line of it on a CPU in a minute: tiny networks, no figures

It prints each figure as soon as it is there, then the rows of docs/benchmarks.md, and writes gpu.json. What is wrong
ends it before anything is timed. It has not been run on a GPU yet.
"""
from __future__ import annotations

import argparse
import copy
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import zlib
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

if "--dry" in sys.argv:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

import torch  # noqa: E402

import bdsa  # noqa: E402
from bdsa.commands.benchmark.gpu_latency import masks_for, measured  # noqa: E402
from bdsa.commands.benchmark.subject import wake  # noqa: E402
from bdsa.models.network import AdaptiveNetwork  # noqa: E402
from bdsa.sparse.execution import executor_of  # noqa: E402
from bdsa.sparse.gpu import device as gpu  # noqa: E402

ROOT = Path(__file__).parents[1]
BUDGETS = [0.3, 0.5]
STARTED = time.monotonic()


class Plan(NamedTuple):
    """What is run, and where.

    Attributes:
        blocks: networks that are checked: every kind of block.
        checked: batch, height and width of their images.
        narrow: the type that is checked beside float32; Triton's interpreter has no bfloat16.
        side: of the images that are timed.
        rounds: that are timed.
        training: words of a command line that are the same in all trainings.
        modes: of the training, with their own words, the quick ones first.
    """
    device: str
    networks: tuple[str, ...]
    batches: tuple[int, ...]
    blocks: tuple[str, ...]
    checked: tuple[int, int, int]
    narrow: torch.dtype
    side: int
    rounds: int
    training: tuple[str, ...]
    modes: dict[str, list[str]]


REAL = Plan("cuda", ("resnet50", "convnext_tiny"), (128, 32, 1),
            ("resnet18", "resnet50", "resnext50_32x4d", "convnext_tiny", "convnextv2_atto"), (3, 160, 224),
            torch.bfloat16, 224, 7,
            ("model=resnet50", "data.image_size=224", "data.train_images=512", "recipe.batch_size=128",
             "recipe=resnet_imagenet", "recipe.accumulation=1", "timing.rounds=3", "timing.steps=6"),
            {"bfloat16": ["trainer.amp=bfloat16", "timing.graph=true"],
             "bfloat16, contiguous": ["trainer.amp=bfloat16", "trainer.channels_last=false"],
             "float32": ["trainer.amp=none"],
             "bfloat16, compiled": ["trainer.amp=bfloat16", "trainer.compile=true", "timing.graph=true"]})
DRY = Plan("cpu", ("cifar_resnet8",), (1,), ("cifar_resnet8",), (1, 8, 12), torch.float16, 8, 1,
           ("model=cifar_resnet8", "data.image_size=32", "data.train_images=16", "recipe.batch_size=4",
            "timing.rounds=1", "timing.steps=1"), {"bfloat16": ["trainer.amp=bfloat16"]})
HERE = DRY if "--dry" in sys.argv else REAL


def say(*words: object) -> None:
    """Print with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:4.0f} s]", *words, flush=True)


def network_of(name: str) -> AdaptiveNetwork:
    """An adaptive network with weights that follow from nothing but its name, on the GPU."""
    torch.manual_seed(0)
    network = bdsa.create_model(name, BUDGETS).eval()
    wake(network)  # else fresh branches add nothing, and no wrong one would show
    return network.to(HERE.device, memory_format=torch.channels_last)


def compile_share(job: tuple[str, torch.dtype, tuple[int, ...], int, int]) -> str | None:
    """In a process of its own: compile a share of a network's kernels, which Triton keeps on the disk."""
    from bdsa.sparse.gpu import launch
    name, dtype, (batch, height, width), share, shares = job

    def see(kernel: Any, arguments: tuple, constants: dict[str, Any]) -> None:
        mine = zlib.crc32(f"{kernel.__name__} {sorted(constants.items())}".encode()) % shares == share
        if mine and not gpu.interpreted():
            kernel.warmup(*arguments, grid=(1,), **constants)  # compiles, and starts nothing

    try:
        network = network_of(name).to(dtype)
        x = torch.zeros(batch, 3, height, width, device=HERE.device, dtype=dtype)
        given = masks_for(network, x, BUDGETS)[1.0]
        executor = executor_of(network, network.budgets.adaptive[0].name)
        with torch.inference_mode(), launch.watched(see):
            for masks in (None, given):
                executor(x, masks, False)
    except Exception as error:  # said by the parent; there the same will stop the run
        return f"{job}: {type(error).__name__}: {str(error)[:200]}"
    return None


def compile_ahead(processes: int, shares: int = 4) -> None:
    """Compile on all cores what would else be compiled one after the other."""
    sizes = [(name, dtype, HERE.checked) for name in HERE.blocks for dtype in (HERE.narrow, torch.float32)]
    sizes += [(name, HERE.narrow, (batch, HERE.side, HERE.side)) for name in HERE.networks for batch in HERE.batches]
    jobs = [(*size, share, shares) for size in sizes for share in range(shares)]
    if HERE is DRY:
        failures = [compile_share(job) for job in jobs[::shares]]
        assert not any(failures), failures
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        for failed in filter(None, pool.map(compile_share, jobs)):
            say("not compiled:", failed)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """The largest difference, over the spread of b."""
    return float((a.float() - b.float()).abs().max() / (b.max() - b.min()).float())


def check(name: str) -> list[tuple[str, float, float]]:
    """What was compared for a network, how far it is away, and how far it may be."""
    network, (batch, height, width) = network_of(name), HERE.checked
    generator = torch.Generator(HERE.device).manual_seed(0)
    x = torch.randn(batch, 3, height, width, device=HERE.device, generator=generator)
    narrow, images = copy.deepcopy(network).to(HERE.narrow), x.to(HERE.narrow)
    found = []
    with torch.inference_mode():
        kinds: dict[str, list[torch.Tensor] | None] = {"own masks": None}
        for budget, masks in masks_for(network, x, BUDGETS).items():
            kinds[f"density of {budget:g}"] = masks
        kinds["empty masks"] = [torch.zeros_like(mask) for mask in masks]
        for kind, masks in list(kinds.items())[::4 if HERE is DRY else 1]:
            network.execution = "masked"
            expected, usage = network(x, budget=0.5, masks=masks, return_usage=True)
            network.execution = narrow.execution = "sparse"
            for turn in ("captured", "replayed")[:1 if HERE is DRY else 2]:
                found.append((f"{name}, {kind}, float32, {turn}",
                              distance(network(x, budget=0.5, masks=usage.masks), expected), 1e-3))
                found.append((f"{name}, {kind}, {HERE.narrow}, {turn}",
                              distance(narrow(images, budget=0.5, masks=usage.masks), expected), 5e-2))
    return found


def inference(name: str, batch: int, compiled: bool) -> dict[str, Any]:
    """Milliseconds of a network at all budgets and of its dense rivals."""
    network = network_of(name)
    x = torch.randn(batch, 3, HERE.side, HERE.side, device=HERE.device)
    result = {"model": name, "batch_size": batch, **measured(network, x, masks_for(network, x, BUDGETS), HERE.rounds,
                                                             compiled, "auto" if batch == 1 else "sparse")}
    say(f"{name}, batch {batch}: " + ", ".join(f"{peer} {ms:.3f} ms" for peer, ms in result["peers"].items()))
    for row in result["rows"]:
        say(f"    budget {row['budget']:g}: {row['ms']:.3f} ms, {row['speedup']:.2f} times {result['best_peer']}, "
            f"logits off by {row['logits_apart']:.2%}")
    return result


def training(mode: str, seconds: float) -> dict[str, Any] | None:
    """What `bdsa-benchmark` measures of a training's steps: dense, one budget, several, with a teacher."""
    with tempfile.TemporaryDirectory() as folder:
        words = [*HERE.training, "data=cluttered_digits", "data.val_images=8", "data.test_images=8",
                 "budgets.targets=[0.3,0.5,0.7]", "teacher=self", f"trainer.device={HERE.device}", *HERE.modes[mode],
                 f"out={folder}"]
        try:
            done = subprocess.run([sys.executable, "-m", "bdsa.commands", "benchmark", *words], capture_output=True,
                                  text=True, timeout=seconds, cwd=ROOT)
        except subprocess.TimeoutExpired:
            say(f"training, {mode}: not measured within {seconds:.0f} s; --minutes gives more time")
            return None
        if done.returncode:
            say(f"training, {mode}: {done.stderr.strip()[-2000:]}")
            return None
        result = json.loads((Path(folder) / "benchmark.json").read_text())
    rows = [row for row in result["rows"] if "budgets" in row]
    say(f"training, {mode}, images/s: " + ", ".join(f"{r['name']} {r['images_per_second']:.0f}" for r in rows))
    return {"mode": mode, "rows": rows}


def tests() -> subprocess.Popen[str]:
    """The tests that need a GPU, started."""
    files = ["tests/sparse/test_gpu.py", "tests/training/test_waiting.py", "tests/commands/test_benchmark.py"]
    assert all((ROOT / file).exists() for file in files)
    words = ["-m", "pytest", "-q", "-m", "not slow", "-k", "gpu or wait or stream", *files]
    return subprocess.Popen([sys.executable, *(["--version"] if HERE is DRY else words)], cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def right(started: subprocess.Popen[str]) -> bool:
    """Whether sparse execution is masked execution, and the tests pass."""
    wrong = [each for name in HERE.blocks for each in check(name) if not each[1] <= each[2]]
    for what, found, limit in wrong:
        say(f"WRONG: {what}: {found:.2e} of the spread, at most {limit:.0e}")
    said, _ = started.communicate()
    say("tests:", said.strip().rpartition("\n")[2])
    if started.returncode:
        print(said[-3000:])
    return not wrong and not started.returncode


def table(found: dict[str, Any]) -> None:
    """Print the rows of docs/benchmarks.md."""
    print("\n| network | batch | budget | fastest dense engine | ms | speedup |\n|---|---|---|---|---|---|")
    for result in found["inference"]:
        for row in result["rows"]:
            best = result["best_peer"]
            print(f"| {result['model']} | {result['batch_size']} | {row['budget']:g} | {best}, "
                  f"{result['peers'][best]:.3f} ms | {row['ms']:.3f} | {row['speedup']:.2f} |")
    print("\n| training | step | images a second |\n|---|---|---|")
    for result in found["training"]:
        for row in result["rows"]:
            print(f"| {result['mode']} | {row['name']} | {row['images_per_second']:.0f} |")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--out", type=Path, default=Path("gpu.json"), help="its folder is made")
    parser.add_argument("--dry", action="store_true")
    asked = parser.parse_args()
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    if HERE is REAL and (not torch.cuda.is_available() or (reason := gpu.unavailable(torch.device("cuda")))):
        print(f"error: {reason if torch.cuda.is_available() else 'no GPU that PyTorch can use'}", file=sys.stderr)
        return 2
    left = lambda: 60 * asked.minutes - (time.monotonic() - STARTED)  # noqa: E731
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    name = torch.cuda.get_device_name() if HERE is REAL else "a CPU, so that no figure means anything"
    say(name, "torch", torch.__version__)
    started = tests()  # while all cores compile; nothing is timed before they end
    compile_ahead(min(16, os.cpu_count() or 1))
    say("compiled")
    if not right(started):
        return 1
    found: dict[str, Any] = {"gpu": name, "torch": torch.__version__, "inference": [], "training": []}
    works = [(5, "inference", lambda n=n, b=b: inference(n, b, False)) for b in HERE.batches for n in HERE.networks]
    modes = [(30, "training", lambda mode=mode: training(mode, left())) for mode in HERE.modes]
    compiled = [(90, "inference", lambda n=n, b=b: inference(n, b, True)) for b in HERE.batches for n in HERE.networks]
    compiled = compiled if HERE is REAL else []
    first = len(HERE.networks)  # the largest batch, compiled: slow, and what counts; the slowest training comes late
    for seconds, kind, work in (*works, *modes[:-1], *compiled[:first], *modes[-1:], *compiled[first:]):
        if left() < seconds:
            say(f"{kind} left out: {left():.0f} s are left, and it takes {seconds}; --minutes gives more time")
        elif (result := work()) is not None:
            found[kind].append(result)
            asked.out.write_text(json.dumps(found, indent=1))
    table(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
