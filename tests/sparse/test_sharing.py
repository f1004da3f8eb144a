"""A network that has run sparsely can be stored, copied, sent to other processes, shared by threads and let go."""
from __future__ import annotations

import copy
import gc
import io
import multiprocessing
import pickle
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import own_network  # noqa: F401  (registers two_stages)
import pytest
import torch
from sparse_cases import BUDGETS, images_of, network_of
from torch import Tensor, nn

import bdsa
from bdsa.models.network import AdaptiveNetwork
from bdsa.sparse.execution import executor_of


def logits_of(network: AdaptiveNetwork, images: Tensor, budget: float = BUDGETS[0]) -> Tensor:
    with torch.inference_mode():
        return network(images, budget=budget).clone()


def saved(network: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("way", [copy.deepcopy, saved, lambda n: pickle.loads(pickle.dumps(n))],
                         ids=["deepcopy", "torch.save", "pickle"])
@pytest.mark.parametrize("name", ["cifar_resnet8", "resnet18", "convnext_atto", "own"])
def test_a_network_that_ran_can_be_stored_and_copied(name: str, way) -> None:
    network = bdsa.create_model("two_stages", BUDGETS, 10).eval() if name == "own" else network_of(name)
    images = images_of((1, 32, 32))
    network.execution = "sparse"
    before = logits_of(network, images)
    other = way(network)
    assert other.execution == "sparse" and type(other).__name__ == type(network).__name__
    assert torch.equal(logits_of(other, images), before)
    other.get_classifier().weight.data.mul_(2)
    assert torch.equal(logits_of(network, images), before)
    assert not torch.equal(logits_of(other, images), before)


def test_a_network_of_ones_own_with_a_part_called_body_is_saved_and_loaded(tmp_path: Path) -> None:
    network = bdsa.create_model("two_stages", BUDGETS, 10).eval()
    images = images_of((1, 32, 32))
    loaded = bdsa.load(bdsa.save(network, tmp_path / "own.safetensors"))
    assert torch.equal(loaded(images, budget=0.4), network(images, budget=0.4))


@pytest.mark.slow
def test_a_network_that_ran_goes_to_another_process() -> None:
    network, images = network_of("cifar_resnet8"), images_of((1, 32, 32))
    network.execution = "sparse"
    before = logits_of(network, images)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert torch.equal(pool.apply(logits_of, (network, images)), before)


def test_what_a_thread_measures_changes_nothing_for_the_others() -> None:
    """While one tries out both ways, or serves a size for which the other one is faster."""
    network, images = network_of("cifar_resnet8"), images_of((1, 32, 32))
    network.execution = "auto"
    logits_of(network, images)
    executor = executor_of(network, "b040")
    before = executor.ways
    with ThreadPoolExecutor(1) as elsewhere:
        elsewhere.submit(executor.set_break_even, [0.5] * len(executor.blocks())).result()
        assert elsewhere.submit(lambda: executor.ways).result() == (0.5,) * len(executor.blocks())
    assert executor.ways == before != (0.5,) * len(executor.blocks())


@pytest.mark.parametrize("execution", ["sparse", "auto"])
def test_threads_with_budgets_and_sizes_of_their_own_share_a_network(execution: str) -> None:
    network = network_of("cifar_resnet8")
    cases = [(images_of(size), budget) for size in ((1, 32, 32), (3, 24, 40)) for budget in (*BUDGETS, 1.0)]
    network.execution = "masked"
    expected = [logits_of(network, *case) for case in cases]
    network.execution = execution
    wrong: list[str] = []

    def work(number: int) -> None:
        try:
            for turn in range(30):
                i = (number * 2 + turn) % len(cases)
                found = logits_of(network, *cases[i])
                if not torch.allclose(found, expected[i], atol=1e-3):
                    wrong.append(f"thread {number}, call {turn}")
        except Exception as error:
            wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_budgets_and_sizes_in_turn_do_not_disturb_each_other() -> None:
    network = network_of("cifar_resnet8")
    cases = [(images_of(size) + shift, budget) for size in ((1, 32, 32), (3, 24, 40)) for budget in BUDGETS
             for shift in (0.0, 0.3)]
    network.execution = "masked"
    expected = [logits_of(network, *case) for case in cases]
    network.execution = "sparse"
    kept = [logits_of(network, *case) for _ in range(2) for case in cases]
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(kept, expected * 2))


def test_a_network_is_let_go_with_its_last_user() -> None:
    network = network_of("cifar_resnet8")
    network.execution = "sparse"
    logits_of(network, images_of((1, 32, 32)))
    there = weakref.ref(network)
    del network
    gc.collect()
    assert there() is None
