"""What one job of a sweep changes in its process, put back for the next."""
from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator

from bdsa.ranks import put_back

LOGGERS = ("", "bdsa", "timm", "wandb", "matplotlib")


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Leave the process as it was found, whatever the job did and however it ended.

    Put back: generators of random numbers, loggers, environment, working directory, warnings, Ctrl-C, and
    torch's threads, modes, GPU and defaults. Closed or freed: an open W&B run, figures, compiled graphs, memory of the
    GPU.
    """
    restore = [_python(), _torch()]
    try:
        yield
    except BaseException:
        _close_tracker(exit_code=1)
        raise
    finally:
        _close_tracker(exit_code=0)
        for part in restore:
            part()
        if pyplot := sys.modules.get("matplotlib.pyplot"):
            pyplot.close("all")
        gc.collect()
        if (torch := sys.modules.get("torch")) and torch.cuda.is_initialized():
            torch.cuda.empty_cache()


def _close_tracker(exit_code: int) -> None:
    """End a W&B run that was left open: the next job would log into it."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and getattr(wandb, "run", None) is not None:
        try:
            wandb.finish(exit_code=exit_code)
        except (Exception, SystemExit) as error:  # a tracker ends no sweep
            if put_back(error):
                raise
            logging.getLogger(__name__).warning("a W&B run that was left open cannot be ended (%s)", error)


def _python() -> Callable[[], None]:
    """Remember what belongs to Python; the result puts it back."""
    drawn, folder, filters = random.getstate(), os.getcwd(), warnings.filters[:]
    environment = dict(os.environ)
    main_thread = threading.current_thread() is threading.main_thread()  # only it may set handlers of signals
    interrupt = signal.getsignal(signal.SIGINT) if main_thread else None
    loggers = {name: (log.handlers[:], log.level, log.propagate, log.disabled)
               for name in LOGGERS for log in [logging.getLogger(name)]}

    def restore() -> None:
        random.setstate(drawn)
        os.chdir(folder)
        warnings.filters[:] = filters
        # wandb starts one service for a process and says there where it is
        now = {k: v for k, v in os.environ.items() if k.startswith(("WANDB_SERVICE", "_WANDB"))}
        os.environ.clear()
        os.environ.update({**environment, **now})
        if interrupt is not None:
            signal.signal(signal.SIGINT, interrupt)
        for name, (handlers, level, propagate, disabled) in loggers.items():
            log = logging.getLogger(name)
            for handler in [h for h in log.handlers if h not in handlers]:
                handler.close()
            log.handlers[:], log.propagate, log.disabled = handlers, propagate, disabled
            log.setLevel(level)
    return restore


def _torch() -> Callable[[], None]:
    """Remember what belongs to torch and numpy, which a job loads anyway; the result puts it back."""
    import numpy
    import torch

    cudnn = torch.backends.cudnn
    drawn = numpy.random.get_state(), torch.get_rng_state()
    on_gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    current = torch.cuda.current_device() if torch.cuda.is_initialized() else 0
    settings = [(torch.set_num_threads, torch.get_num_threads()), (torch.set_grad_enabled, torch.is_grad_enabled()),
                (torch.set_default_dtype, torch.get_default_dtype()),
                (torch.set_float32_matmul_precision, torch.get_float32_matmul_precision()),
                (torch.use_deterministic_algorithms, torch.are_deterministic_algorithms_enabled())]
    choices = cudnn.benchmark, cudnn.deterministic, cudnn.enabled

    def restore() -> None:
        numpy.random.set_state(drawn[0])
        torch.set_rng_state(drawn[1])
        if on_gpus is not None:
            torch.cuda.set_rng_state_all(on_gpus)
        if torch.cuda.is_initialized():
            torch.cuda.set_device(current)
        for put, value in settings:
            put(value)
        cudnn.benchmark, cudnn.deterministic, cudnn.enabled = choices
        if "torch._dynamo" in sys.modules:  # graphs of another network, and how often they were made anew
            torch._dynamo.reset()
    return restore
