"""Serve a network whose requests name a budget or a deadline; under load it lowers the budget instead of refusing.

    pip install fastapi uvicorn
    python examples/serve.py                       # http://localhost:8000, see /docs there
    curl --data-binary @PHOTO.jpg "localhost:8000/classify?deadline_ms=20"
    curl --data-binary @PHOTO.jpg "localhost:8000/classify?budget=0.5"

Requests that wait together run together, one batch a budget. A request with a deadline gets the largest budget with
which all that waits before it is still answered in time. examples/serve_load.py measures it.
"""
from __future__ import annotations

import argparse
import gc
import io
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import bdsa

PUBLISHED = Path(__file__).resolve().parents[1] / "experiments/cifar10_resnet20/cifar_resnet20.safetensors"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass
class Request:
    """One image [3, H, W] that waits for an answer, at a budget, or until a time (of time.perf_counter)."""
    image: Tensor
    budget: float | None
    until: float
    arrived: float = field(default_factory=time.perf_counter)
    answer: Future = field(default_factory=Future)


class Server:
    """A thread that runs what waits in batches.

    Args:
        network: in eval mode.
        size: height and width of the images.
        budgets: those that it may choose; None: all of the network's, and 1.
        most: images of a batch.
        like: images [N, 3, H, W] such as will come, to measure what batches take; None: noise, on which other
            positions run.
        reserve: share of a deadline that is kept for what comes meanwhile.
    """

    def __init__(self, network: nn.Module, size: tuple[int, int], budgets: list[float] | None = None,
                 most: int = 8, like: Tensor | None = None, reserve: float = 0.2) -> None:
        self.network, self.size, self.most, self.reserve = network, size, most, reserve
        self.like = torch.randn(most, 3, *size) if like is None else like.repeat(-(-most // len(like)), 1, 1, 1)
        self.budgets = sorted(budgets or {*map(float, network.budgets), 1.0})
        self.sizes = sorted({most, *(2 ** i for i in range(most.bit_length()) if 2 ** i <= most)})
        self.seconds: dict[tuple[float, int], float] = {}
        self.pace = 1.0  # how much slower batches have become since, by what else the machine does
        self.waiting: list[Request] = []
        self.came = threading.Condition()
        self.stopped = False
        self.ready: Future = Future()
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()
        self.ready.result()
        gc.collect()
        gc.freeze()  # the libraries' objects, which stay: looking through them stops all threads for half a second

    def submit(self, image: Tensor, budget: float | None = None, deadline: float | None = None) -> Future:
        """Ask for an answer: {"logits", "budget", "seconds" since it was asked}.

        Args:
            image: [3, H, W], normalised.
            budget: one that the network has; None: as large as time allows.
            deadline: seconds from now.
        """
        if image.shape != (3, *self.size):
            raise bdsa.UserError(f"an image of {list(image.shape)} is not 3 x {self.size[0]} x {self.size[1]}")
        if image.dtype != torch.float32 or image.device.type != "cpu":
            raise bdsa.UserError(f"an image is {image.dtype} on {image.device}, and float32 on the CPU is taken")
        if budget is not None:
            budget = float(self.network.budgets.require(budget))
        asked = Request(image, budget, time.perf_counter() + (float("inf") if deadline is None else deadline))
        with self.came:
            if self.stopped:
                raise bdsa.UserError("the server has stopped")
            self.waiting.append(asked)
            self.came.notify()
        return asked.answer

    def stop(self) -> None:
        """Answer what waits, then end."""
        with self.came:
            self.stopped = True
            self.came.notify()
        self.thread.join()
        gc.unfreeze()

    def chosen(self, waiting: list[Request], now: float) -> float:
        """The largest budget with which everything that waits is answered in time, by the batches' measured times."""
        free = sorted((r for r in waiting if r.budget is None), key=lambda r: r.until)
        before = sum(self._of(r.budget, 1) for r in waiting if r.budget is not None)
        for budget in reversed(self.budgets[1:]):
            done, in_time = now + before, True
            for start in range(0, len(free), self.most):
                part = free[start:start + self.most]
                done += self._of(budget, len(part))
                first = part[0]
                in_time = in_time and done + self.reserve * (first.until - first.arrived) <= first.until
            if in_time:
                return budget
        return self.budgets[0]

    def _of(self, budget: float, images: int) -> float:
        """Seconds of a batch of so many images."""
        known = next((n for n in self.sizes if n >= images), self.sizes[-1])
        return self.pace * self.seconds.get((budget, known), self.seconds[self.budgets[-1], known])

    def _measured(self, budget: float, images: int) -> float:
        x, taken = self.like[:images].clone(), []
        for _ in range(11):
            started = time.perf_counter()
            self.network(x, budget=budget)
            taken.append(time.perf_counter() - started)
        return sorted(taken[1:])[5]

    @torch.inference_mode()
    def _work(self) -> None:
        try:  # in the thread that will serve: its recordings and its processors are its own
            for images in reversed(self.sizes):  # the largest first: memory never grows
                self.seconds |= {(budget, images): self._measured(budget, images) for budget in self.budgets}
        except Exception as error:
            self.ready.set_exception(error)
            return
        self.ready.set_result(None)
        while True:
            with self.came:
                while not self.waiting and not self.stopped:
                    self.came.wait()
                self.waiting = [r for r in self.waiting if not r.answer.cancelled()]
                if not self.waiting and self.stopped:
                    return
                if not self.waiting:
                    continue
                budget = self.chosen(self.waiting, time.perf_counter())
                first = min(self.waiting, key=lambda r: r.until)
                taken_at = budget if first.budget is None else first.budget
                alike = [r for r in self.waiting if (budget if r.budget is None else r.budget) == taken_at]
                batch = sorted(alike, key=lambda r: r.until)[:self.most]
                self.waiting = [r for r in self.waiting if not any(r is taken for taken in batch)]
            self._answer(batch, taken_at)

    def _answer(self, batch: list[Request], budget: float) -> None:
        batch = [r for r in batch if r.answer.set_running_or_notify_cancel()]  # some were cancelled just now
        if not batch:
            return
        room = next(n for n in self.sizes if n >= len(batch))    # few sizes: each is recorded once and played again
        started = time.perf_counter()
        try:
            images = torch.zeros(room, 3, *self.size)
            images[:len(batch)] = torch.stack([r.image for r in batch])
            logits = self.network(images, budget=budget)
        except Exception as error:  # whoever asked is told
            for request in batch:
                request.answer.set_exception(error)
            return
        now = time.perf_counter()
        expected = self.seconds.get((budget, room), now - started)
        self.pace += 0.2 * ((now - started) / expected - self.pace)
        for request, line in zip(batch, logits):
            request.answer.set_result({"logits": line, "budget": budget, "seconds": now - request.arrived})


def app_of(server: Server, classes: list[str] | None = None) -> Any:
    """A FastAPI application around a server."""
    import asyncio

    from fastapi import FastAPI, HTTPException
    from fastapi import Request as Call
    from PIL import Image
    from torchvision.transforms.functional import normalize, to_tensor

    app = FastAPI(title="Adaptive inference")

    async def classify(call: Call, budget: float | None = None, deadline_ms: float | None = None) -> dict:
        try:
            picture = Image.open(io.BytesIO(await call.body())).convert("RGB").resize(server.size[::-1])
            asked = server.submit(normalize(to_tensor(picture), MEAN, STD), budget,
                                  None if deadline_ms is None else deadline_ms / 1000)
        except (OSError, ValueError) as error:
            raise HTTPException(400, str(error)) from error
        found = await asyncio.wrap_future(asked)
        best = int(found["logits"].argmax())
        return {"class": classes[best] if classes else best, "budget": found["budget"],
                "milliseconds": round(1000 * found["seconds"], 3)}

    classify.__annotations__["call"] = Call  # which is known here alone
    app.post("/classify")(classify)
    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default=PUBLISHED, help="what bdsa.load reads")
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--port", type=int, default=8000)
    asked = parser.parse_args()
    import uvicorn

    network = bdsa.load(asked.network)
    network.watch_weights = "never"  # they are constants
    server = Server(network, (asked.size, asked.size))
    try:
        uvicorn.run(app_of(server), port=asked.port)
    finally:
        server.stop()


if __name__ == "__main__":
    main()
