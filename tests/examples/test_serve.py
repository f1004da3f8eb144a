"""The server example: requests with a budget or a deadline, batched, and lower budgets under load."""
from __future__ import annotations

import io
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

import bdsa

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def served():
    sys.path.insert(0, str(EXAMPLES))
    import serve
    sys.path.remove(str(EXAMPLES))
    network = bdsa.create_model("cifar_resnet8", [0.3, 0.6], num_classes=10).eval()
    server = serve.Server(network, (32, 32), most=4)
    yield serve, server, network
    server.stop()


def test_each_answer_is_the_networks_own(served):
    _, server, network = served
    images = torch.randn(7, 3, 32, 32)
    asked = [server.submit(image, budget) for image, budget in zip(images, [0.3, 0.6, 1.0, 0.3, None, 0.3, 0.6])]
    found = [each.result(timeout=60) for each in asked]
    assert [each["budget"] for each in found] == [0.3, 0.6, 1.0, 0.3, 1.0, 0.3, 0.6]  # without a deadline: dense
    with torch.inference_mode():
        for image, each in zip(images, found):
            torch.testing.assert_close(each["logits"], network(image[None], budget=each["budget"])[0], rtol=1e-4,
                                       atol=1e-4)


def test_an_image_that_it_cannot_take_ends_nothing(served):
    serve, server, _ = served
    with pytest.raises(bdsa.UserError, match="torch.float64 on cpu, and float32 on the CPU is taken"):
        server.submit(torch.zeros(3, 32, 32, dtype=torch.float64), 0.3)
    one = serve.Request(torch.zeros(2, 32, 32), 0.3, time.perf_counter() + 60)  # that came past the check
    with server.came:
        server.waiting.append(one)
        server.came.notify()
    with pytest.raises(RuntimeError, match="size"):
        one.answer.result(timeout=60)
    assert server.submit(torch.zeros(3, 32, 32), 0.3).result(timeout=60)["budget"] == 0.3


def test_the_budget_falls_as_the_load_rises(served, monkeypatch):
    serve, server, _ = served
    monkeypatch.setattr(server, "seconds", {(b, n): b * n for b in (0.3, 0.6, 1.0) for n in (1, 2, 4)})
    monkeypatch.setattr(server, "pace", 1.0)
    monkeypatch.setattr(server, "reserve", 0.1)
    image, now = torch.zeros(3, 32, 32), time.perf_counter()

    def chosen(waiting: int, deadline: float, other: float | None = None) -> float:
        others = [] if other is None else [serve.Request(image, other, now + 100)]
        return server.chosen([serve.Request(image, None, now + deadline) for _ in range(waiting)] + others, now)

    assert [chosen(count, 4.5) for count in (1, 4, 6, 8)] == [1.0, 1.0, 0.6, 0.3]
    assert [chosen(4, deadline) for deadline in (5, 3, 2, 0.1)] == [1.0, 0.6, 0.3, 0.3]  # late is better than never
    assert chosen(4, 4.5, other=1.0) == 0.6  # which waits before
    monkeypatch.setattr(server, "pace", 2.0)  # the machine has other work too
    assert chosen(4, 4.5) == 0.3


def test_what_cannot_be_asked_is_said(served):
    _, server, _ = served
    with pytest.raises(bdsa.UserError, match="0.5 was not trained"):
        server.submit(torch.zeros(3, 32, 32), budget=0.5)
    for wrong in ((3, 16, 16), (1, 32, 32)):
        with pytest.raises(bdsa.UserError, match="is not 3 x 32 x 32"):
            server.submit(torch.zeros(wrong))


def test_a_cancelled_request_does_not_end_the_server(served):
    serve, server, _ = served
    image = torch.zeros(3, 32, 32)
    left, other, waiting = (serve.Request(image, 0.3, 0.0) for _ in range(3))
    assert left.answer.cancel() and other.answer.cancel()
    server._answer([left, waiting], 0.3)
    server._answer([other], 0.3)
    assert waiting.answer.result(timeout=0)["budget"] == 0.3 and left.answer.cancelled()
    asked = [server.submit(image, 0.3) for _ in range(20)]
    for each in asked[::2]:
        each.cancel()
    assert all(each.result(timeout=60)["budget"] == 0.3 for each in asked[1::2])
    assert server.submit(image, 0.3).result(timeout=60)["budget"] == 0.3


def test_it_speaks_http(served):
    pytest.importorskip("fastapi", reason="the server's door is FastAPI, optional: pip install bdsa[examples]")
    from fastapi.testclient import TestClient

    serve, server, _ = served
    client, picture = TestClient(serve.app_of(server, list("abcdefghij"))), io.BytesIO()
    Image.new("RGB", (50, 40), "red").save(picture, "PNG")
    said = client.post("/classify?budget=0.3", content=picture.getvalue()).json()
    assert said["budget"] == 0.3 and said["class"] in "abcdefghij" and said["milliseconds"] > 0
    assert client.post("/classify?deadline_ms=60000", content=picture.getvalue()).json()["budget"] == 1.0
    refused = client.post("/classify?budget=0.5", content=picture.getvalue())
    assert refused.status_code == 400 and "was not trained" in refused.json()["detail"]
    assert client.post("/classify", content=b"no picture").status_code == 400


@pytest.mark.slow
def test_the_load_test_draws_both_servers(tmp_path):
    done = subprocess.run([sys.executable, EXAMPLES / "serve_load.py", "--quick", "--size", "32", "--out", "load.png",
                           "--network", EXAMPLES.parent / "experiments/cifar10_resnet20/cifar_resnet20.safetensors"],
                          cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if line.split()[0] in ("dense", "adaptive")] \
        == ["dense"] * 3 + ["adaptive"] * 3
    assert (tmp_path / "load.png").stat().st_size > 1000
