"""Run networks with each build of the native kernels, in forks of a process that imported everything once.

    python tests/support/kernel_builds.py CHOICE...

The kernels are chosen when they are first needed, so that each build wants a process. Prints one line of JSON: what
each value of BDSA_KERNELS says of itself, and the traceback of what failed.
"""
from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path

import torch
from int8_cases import results
from sparse_cases import BUDGETS, assert_near, assert_same, both, images_of, network_of

from bdsa.sparse import native

NAMES = ("cifar_resnet8", "resnet26d", "resnext50_32x4d", "convnext_atto", "convnextv2_atto")


def assert_alone_as_together(name: str) -> None:
    """Logits of an image, to the last bit: how its positions are shared out among threads changes nothing."""
    network, images = network_of(name), images_of((5, 64, 64))
    network.execution = "sparse"
    torch.set_num_threads(2)
    with torch.inference_mode():
        alone = torch.cat([network(image[None], budget=BUDGETS[0]) for image in images])
        assert torch.equal(network(images, budget=BUDGETS[0]), alone)
    torch.set_num_threads(1)


def described(choice: str) -> dict[str, str | bool]:
    """Hold sparse execution with a build against masked execution; what the build says of itself."""
    os.environ["BDSA_KERNELS"] = choice
    for name in NAMES:
        assert_same(*both(network_of(name), images_of((2, 41, 35)), BUDGETS[0]))
    if reason := native.unavailable():
        return {"kernels": reason}
    for name in NAMES:
        assert_near(network_of(name), images_of((2, 41, 67)), "scattered")
        assert_alone_as_together(name)
    assert all(torch.equal(found, expected) for found, expected, *_ in results())
    return {"kernels": native.description(), "products": native.bfloat16_instructions(),
            "int8": native.int8_instructions(),
            "faster": native.bfloat16_is_faster()}


def in_a_fork(choice: str, out: Path) -> dict[str, str | bool]:
    """`described` in a process of its own."""
    child = os.fork()
    if child == 0:
        try:
            found = described(choice)
        except BaseException:
            found = {"failed": traceback.format_exc()}
        out.write_text(json.dumps(found))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return json.loads(out.read_text()) if status == 0 else {"failed": f"ended with status {status}"}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps({choice: in_a_fork(choice, Path(folder) / choice) for choice in sys.argv[1:]}))
