"""Build the two examples in C++, and time them by turns beside Python.

    python examples/cpp/speed.py                          # a ResNet-50 in bfloat16; three minutes
    python examples/cpp/speed.py precision=float32 size=32 \\
        network=experiments/cifar10_resnet20/cifar_resnet20.safetensors

Other words: budgets=0.3,0.5, turns=5 (0: only make the files), out=runs/cpp (what lies there is kept). Each turn
starts every program anew, on one image, with as many threads as OpenMP takes (OMP_NUM_THREADS). A program prints the
median of 50 inferences after the first; the table has the medians of the turns. The ResNet-50 has random weights, and
thresholds that meet each budget on smooth noise.
"""
from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import torch

import bdsa
from bdsa.commands.hosts import HOSTS
from bdsa.config.names import FORMATS
from bdsa.sparse import build
from bdsa.sparse.program import program_of

SOURCES = {"onnx": Path(__file__).with_name("onnx_runtime.cpp"), "aoti": Path(__file__).with_name("aotinductor.cpp")}
TORCH = Path(torch.__file__).parent
REPETITIONS = 50


def built(form: str, folder: Path) -> Path:
    """The example's program, built as docs/export.md says."""
    program = folder / SOURCES[form].stem
    if form == "onnx":
        import onnxruntime

        library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so*"))
        if not (folder / "libonnxruntime.so.1").exists():
            (folder / "libonnxruntime.so.1").symlink_to(library)
        further = ["-std=c++17", f"-I{build.HOSTS}", folder / "libonnxruntime.so.1", f"-Wl,-rpath,{folder}"]
    else:
        further = ["-std=c++20", f"-I{TORCH}/include", f"-I{TORCH}/include/torch/csrc/api/include", f"-L{TORCH}/lib",
                   f"-Wl,-rpath,{TORCH}/lib", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"]
    subprocess.run([os.environ.get("CXX", "g++"), SOURCES[form], "-O2", *further, "-o", program], check=True)
    return program


def smooth(images: int, size: int) -> torch.Tensor:
    noise = torch.randn(images, 3, max(size // 32, 2), max(size // 32, 2), generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(noise, size=(size, size), mode="bicubic")


def made(out: Path, kept: Path | None, size: int, budgets: list[float], precision: str) -> Path:
    """The network's file; beside it what the programs in C++ run, the libraries and an image."""
    path = out / f"{kept.stem if kept else 'resnet50'}-{precision}.safetensors"
    if path.exists():
        return path
    torch.manual_seed(0)
    network = bdsa.load(kept) if kept else bdsa.create_model("resnet50", [*budgets, 1.0], num_classes=1000).eval()
    if not kept:
        bdsa.calibrate(network, [smooth(4, size)])
    program = program_of(network, budgets, precision)
    for form in SOURCES:
        HOSTS[form].write(program, smooth(2, size), path.with_suffix(FORMATS[form]))
        HOSTS[form].put_library(out)
    smooth(1, size).numpy().tofile(path.with_suffix(".f32"))
    bdsa.save(network, path)
    return path


def in_python(path: Path, size: int, budget: float, precision: str) -> None:
    """What the programs in C++ do, for this network in Python: milliseconds on the error output."""
    network = bdsa.load(path)
    network.execution, network.precision, network.watch_weights = "sparse", precision, "never"
    x = torch.from_file(str(path.with_suffix(".f32")), size=3 * size * size).view(1, 3, size, size)
    taken = []
    with torch.inference_mode():
        for _ in range(REPETITIONS + 1):
            started = time.perf_counter()
            network(x, budget=budget)
            taken.append(1000 * (time.perf_counter() - started))
    print(f"{median(taken[1:]):.3f} ms", file=sys.stderr)


def main(words: dict[str, str]) -> None:
    kept, out = Path(words["network"]) if "network" in words else None, Path(words.get("out", "runs/cpp")).absolute()
    size, precision = int(words.get("size", 224)), words.get("precision", "bfloat16")
    budgets = [float(budget) for budget in words.get("budgets", "0.3,0.5").split(",")]
    if "python" in words:
        return in_python(Path(words["python"]), size, budgets[0], precision)
    out.mkdir(parents=True, exist_ok=True)
    path = made(out, kept, size, budgets, precision)
    libraries = {"onnx": "bdsa_onnx.so", "aoti": "bdsa_torch.so"}
    commands = {HOSTS[form].program_name + ", C++": [
        out / source.stem if (out / source.stem).exists() else built(form, out), path.with_suffix(FORMATS[form]),
        out / libraries[form], path.with_suffix(".f32"), 1, 3, size, size] for form, source in SOURCES.items()}
    commands["Python"] = [sys.executable, __file__, f"python={path}", f"size={size}", f"precision={precision}"]
    print(f"{path.stem}, one image of {size}x{size}, {torch.get_num_threads()} threads, ms (of Python's)")
    taken: dict[tuple[float, str], list[float]] = {}
    for _ in range(int(words.get("turns", 5))):
        for budget in budgets:
            for name, command in commands.items():
                asked = f"budgets={budget}" if name == "Python" else budget
                done = subprocess.run([*map(str, command), str(asked)], capture_output=True, text=True)
                if done.returncode:
                    sys.exit(done.stderr)
                taken.setdefault((budget, name), []).append(float(done.stderr.split()[-2]))
    for (budget, name), ms in taken.items():
        share = median(ms) / median(taken[budget, "Python"])
        print(f"  budget {budget:g}  {name:18} {median(ms):6.2f} ({share:.2f})   "
              f"turns {' '.join(f'{each:.2f}' for each in ms)}")


if __name__ == "__main__":
    main(dict((word.split("=", 1) + [""])[:2] for word in sys.argv[1:]))
