"""Run an entry point in this process, as a shell would: arguments in, exit code and output out."""
from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass

from bdsa.commands.entry_points import evaluate, train

# A data set and a network so small that an epoch takes a fraction of a second.
TINY = ["model=cifar_resnet8", "data.image_size=32", "data.train_images=96", "data.val_images=40",
        "data.test_images=50", "recipe.batch_size=16", "recipe.epochs=3", "recipe.warmup_epochs=0",
        "trainer.eval_batch_size=20", "trainer.pictures=0", "budgets.calibration_images=40",
        "budgets.temperatures=[5,2.5,1]", "budgets.noise_until=0.5", "tracker=none"]

# A latency that is measured so shortly that it says nothing.
BRIEF = ["what=latency", "trainer.threads=1", "latency.rounds=3", "latency.seconds=0.001"]


@dataclass
class Outcome:
    code: int
    out: str
    err: str


def run(main: Callable[[], None], arguments: list[str]) -> Outcome:
    """Call `main` with a command line; its sys.exit becomes the outcome's code.

    Trainings and evaluations do not time their network, unless a test asks for it: it takes seconds.
    """
    if main in (train, evaluate) and not any("trainer.latency" in a for a in arguments):
        first = next((i for i, a in enumerate(arguments) if "=" in a and not a.startswith("-")), len(arguments))
        arguments = [*arguments[:first], "trainer.latency=false", *arguments[first:]]  # flags stay where they are
    out, err, code = io.StringIO(), io.StringIO(), 0
    before = sys.argv
    sys.argv = ["bdsa", *arguments]
    try:
        with redirect_stdout(out), redirect_stderr(err):
            try:
                main()
            except SystemExit as stop:
                code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
                if isinstance(stop.code, str):
                    err.write(stop.code)
    finally:
        sys.argv = before
    return Outcome(code, out.getvalue(), err.getvalue())
