"""A network as a program: C++ alone computes what Python computes, at any batch, size, budget and thread count."""
from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch
from sparse_cases import BUDGETS, NETWORKS, images_of, network_of

import bdsa
from bdsa.errors import UserError
from bdsa.sparse import native, torch_operator
from bdsa.sparse.program import Program, program_of
from bdsa.sparse.torch_operator import run_program

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason="needs the native kernels")
FEWER = {"resnet26d": {"layers": [1, 1, 1, 1]}, "resnext50_32x4d": {"layers": [1, 1, 1, 1]}}  # every operation is there
SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in
        ("resnet26d", "resnext50_32x4d", "resnet10t", "convnextv2_atto", "resnet26 submanifold")]


def in_python(network, x, budget, exact=False):
    with torch.inference_mode():
        return network(x, budget=budget, per_image=exact)


def spent(network, x, budget):
    """The images' fractions where no image may exceed the budget."""
    with torch.inference_mode():
        return network(x, budget=budget, return_usage=True, per_image=True)[1].conditional_fraction


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_resnet14", "cifar_resnet14 submanifold", *SLOW])
def test_a_program_gives_the_logits_of_python(name) -> None:
    network = network_of(name, **NETWORKS[name], **FEWER.get(name, {}))
    network.execution = "sparse"
    for network.precision in ("float32", "bfloat16"):
        program = program_of(network, [0.4, 1.0] if name in FEWER else None, network.precision)
        assert program.budgets == ((0.4, 1.0) if name in FEWER else (*BUDGETS, 1.0))
        for size in ((3, 33, 47), (1, 32, 32)):
            x = images_of(size)
            for asked in product(program.budgets, (False, True)):
                assert torch.equal(run_program(program, x, *asked), in_python(network, x, *asked)), (size, *asked)
            assert (spent(network, x, 0.4) <= 0.4).all()


@pytest.fixture(scope="module")
def small():
    network = network_of("cifar_resnet8")
    network.execution = "sparse"
    return network, program_of(network)


def test_threads_share_a_program_and_batches_go_image_by_image(small) -> None:
    network, program = small
    cases = [(images_of((batch, 32, 32)) + shift, *asked) for batch in (1, 4, 16) for shift in (0.0, 0.3)
             for asked in ((0.4, False), (0.4, True), (0.7, True), (1.0, False))]
    expected = [in_python(network, *case) for case in cases]
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            with ThreadPoolExecutor(2) as pool:
                found = list(pool.map(lambda case: run_program(program, *case), cases * 2))
        finally:
            torch.set_num_threads(1)
        assert all(torch.equal(a, b) for a, b in zip(found, expected * 2, strict=True))


def test_images_of_any_strides_and_those_that_are_not_finite(small) -> None:
    network, program = small
    x = images_of((3, 32, 40))
    odd = torch.randn(3, 32, 3, 80).permute(0, 2, 1, 3)[..., ::2]
    for images in (x.contiguous(memory_format=torch.channels_last), odd):
        assert torch.equal(run_program(program, images, 0.4), in_python(network, images.contiguous(), 0.4))
    broken = x.clone()
    broken[1, 0, 3, 3] = float("nan")
    logits = run_program(program, broken, 0.4)
    assert logits[1].isnan().all() and torch.equal(logits[::2], run_program(program, x, 0.4)[::2])


def test_budgets_between_are_packed_where_they_are_asked_for(small) -> None:
    network, _ = small
    with pytest.raises(UserError, match="its curves are missing"):
        program_of(network, [0.5])
    alone = program_of(network, [0.7])
    assert alone.budgets == (0.7,)
    x = images_of((1, 32, 32))
    assert torch.equal(run_program(alone, x, 0.7), in_python(network, x, 0.7))
    with pytest.raises(UserError, match=r"budget 0.4 is not in this program, which has 0.7"):
        run_program(alone, x, 0.4)


def test_what_cannot_be_a_program_is_named() -> None:
    with pytest.raises(UserError, match="block .*stages.0.blocks.0.* a depthwise kernel of"):
        program_of(network_of("convnext_atto", kernel_sizes=3))
    network = network_of("cifar_resnet8")
    network.fc = torch.nn.Sequential(network.fc).eval()
    with pytest.raises(UserError, match="the head of this"):
        program_of(network)
    with pytest.raises(UserError, match="network.eval"):
        program_of(network.train())


def test_bytes_and_images_that_do_not_fit_are_refused(small) -> None:
    _, program = small
    x = images_of((1, 32, 32))

    def changed(word: int, value: int) -> Program:
        data = program.data.clone()
        data[8 * word:8 * word + 8] = torch.tensor([value]).view(torch.uint8)
        return Program(data, program.budgets, program.classes, program.channels, program.precision)

    for word, value, said in ((0, 7, "no program"), (1, 99, "has format 99"), (2, 10, "of its 10 bytes"),
                              (6, 3, "packed by 3 columns")):
        with pytest.raises(UserError, match=said):
            run_program(changed(word, value), x, 0.4)
    with pytest.raises(UserError, match="2 channels, and the network reads 3"):
        run_program(program, x[:, :2], 0.4)
    bdsa.portable(small[0])  # which loads the operator
    with pytest.raises(RuntimeError, match="classes=3, and the program has 10"):
        torch.ops.bdsa.network(x, program.data, torch.tensor(0.4), 3)
    with pytest.raises(UserError, match="float32 images"):
        run_program(program, x[0], 0.4)
    assert run_program(program, x[:0], 0.4).shape == (0, 10)


@pytest.mark.parametrize("place", [26, 34, 8 * 9, 8 * 12 + 3, 0.2, 0.9])
def test_a_program_with_a_changed_bit_is_refused(small, place: int | float) -> None:
    """In its header, a budget's row, the instructions and the weights: it would answer wrongly, or read beyond."""
    program = program_of(small[0], [0.4])  # which no other test has run: what ran is known where it lies
    data = program.data.clone()
    data[place if isinstance(place, int) else int(place * len(data))] ^= 4
    with pytest.raises(UserError, match="is damaged"):
        run_program(replace(program, data=data), images_of((1, 32, 32)), 0.4)


@pytest.fixture(scope="module")
def unsure():
    """A network that knows how sure its first answers on some images are, and those images."""
    network, images = network_of("cifar_resnet8"), images_of((24, 32, 32))
    network.execution = "sparse"
    bdsa.calibrate_confidence(network, [images])
    return network, images


@torch.inference_mode()
def test_a_cascade_is_one_program(unsure) -> None:
    network, images = unsure
    network.precision = "float32"
    first, most = network.confidence.budgets[0], network.confidence.most
    program = program_of(network, cascade=True)
    assert program.cascade and program.budgets[-1] == 1.0 and program.between == (first, most)
    packed = program_of(network, [first, network.confidence.budgets[1], 1.0]).data.numel()
    assert packed <= program.data.numel() < packed + 10_000, "the weights of its looks, once"
    middle = (first + most) / 2
    for x in (images, images[:1], images[5:12].contiguous(memory_format=torch.channels_last), images[:, :, :, ::2]):
        for budget in (first, middle, (middle + most) / 2, most, 1.0):
            expected = network(x.contiguous(), budget=budget, cascade=True)
            assert torch.equal(run_program(program, x, budget), expected), budget
    looks = [network(images, budget=budget) for budget in network.confidence.budgets]
    made = run_program(program, images, middle)
    again = (made == looks[1]).all(dim=1)
    assert 0 < again.sum() < len(images) and torch.equal(made[~again], looks[0][~again])
    alike = replace(network.confidence, budgets=(0.4, 0.7), fractions=(0.3, 0.5))  # whose `most` is below 1
    dense = replace(network.confidence, budgets=(0.4, 1.0), fractions=(0.4, 1.0))
    for other in (alike, dense):
        copied = copy.deepcopy(network)
        copied.confidence = other
        again = program_of(copied, cascade=True)
        assert again.between == (0.4, other.most)
        for budget in (0.4, 0.41, 0.65, other.most):
            assert torch.equal(run_program(again, images, budget), copied(images, budget=budget, cascade=True)), budget
    copied.confidence = alike
    with pytest.raises(UserError, match="budget 0.81 is none of this cascade, which has any from 0.4 to 0.8 as a mean"):
        run_program(program_of(copied, cascade=True), images, 0.81)
    for x in (images[:0], images[:1] * torch.nan):
        assert torch.equal(run_program(program, x, middle).isnan(), torch.ones(len(x), 10, dtype=torch.bool))


def test_what_a_cascades_program_cannot_do_is_said(unsure) -> None:
    network, images = unsure
    program = program_of(network, cascade=True)
    for budget, exact, says in ((0.2, False, "budget 0.2 is none of this cascade, which has any from 0.4 to"),
                                (float("nan"), False, "budget nan is none of this cascade"),
                                (0.5, True, "per_image must be false")):
        with pytest.raises(UserError, match=says):
            run_program(program, images[:1], budget, exact)
    with pytest.raises(UserError, match="calibrate_confidence"):
        program_of(network_of("cifar_resnet8"), cascade=True)
    without = network_of("cifar_resnet8")
    without.cascade = True
    with pytest.raises(UserError, match="calibrate_confidence"):
        program_of(without)
    with pytest.raises(UserError, match="leave out between"):
        program_of(network, between=True, cascade=True)
    with pytest.raises(UserError, match="which per_image contradicts"):
        bdsa.portable(network, cascade=True, per_image=True)
    with pytest.raises(UserError, match="budget 0.2 is below 0.4"):
        program_of(network, [0.2], cascade=True)
    later = copy.deepcopy(network)
    later.confidence = replace(network.confidence, budgets=(0.7, 1.0), fractions=(0.7, 1.0))
    assert program_of(later, cascade=True).budgets == (0.7, 1.0), "not those below its first look"
    single = bdsa.create_model("cifar_resnet8", [1.0], 10).eval()
    with pytest.raises(UserError, match="calibrate_confidence"):
        program_of(single, cascade=True)
    with pytest.raises(Exception, match="leave out return_usage"):
        torch.export.export(network, (images,), {"budget": 0.5, "cascade": True, "return_usage": True}, strict=False)


@torch.inference_mode()
def test_a_cascade_is_exported_as_one_operator(unsure) -> None:
    network, images = unsure
    budget = (network.confidence.budgets[0] + network.confidence.most) / 2
    expected = network(images, budget=budget, cascade=True)
    asked = torch.tensor(budget)
    assert torch.equal(bdsa.portable(network, cascade=True)(images, asked), expected)
    one = {"budget": budget, "cascade": True}
    with torch.inference_mode(False), torch.no_grad():
        fixed = torch.export.export(network, (images,), one, strict=False)
        open_ = torch.export.export(network, (images, torch.tensor(1.0)), {"cascade": True}, strict=False)
    assert torch.equal(fixed.module()(images, **one), expected)
    assert torch.equal(open_.module()(images, asked, cascade=True), expected)


def test_any_budget_where_the_network_has_curves() -> None:
    network = bdsa.load(ROOT / "experiments/cifar10_resnet20/cifar_resnet20.safetensors")
    network.execution = "sparse"
    program, x = program_of(network, between=True), images_of((2, 32, 32))
    several, other = images_of((4, 32, 32)), images_of((1, 40, 24))
    for budget in (0.3, 0.32, 0.37, 0.42, 0.47, 0.49, 0.5, 0.61, 0.66, 0.8, 1.0):
        assert torch.equal(run_program(program, x, budget), in_python(network, x, budget)), budget
        for images in (several, other):
            assert torch.equal(run_program(program, images, budget, True), in_python(network, images, budget, True))
            assert (spent(network, images, budget) <= budget).all(), budget
    some = program_of(network, [0.42], between=True)
    for budget in (0.42, 0.5, 0.7, 1.0):
        assert torch.equal(run_program(some, x, budget), in_python(network, x, budget)), "as trained, if unasked"
    alone = program_of(network, [0.42])  # packed with its thresholds moved
    assert torch.equal(run_program(alone, several, 0.42, True), in_python(network, several, 0.42, True))
    assert not torch.equal(run_program(alone, several, 0.42, True), run_program(alone, several, 0.42))
    with pytest.raises(UserError, match="budget 0.2 is not in this program, which has 0.3, 0.5, 0.7, 1, 0.3 to "):
        run_program(program, x, 0.2)
    lower, upper = network.curves["b030"], network.curves["b050"]
    down = replace(upper, offsets=(upper.offsets[0] - 2, *upper.offsets), fractions=(0.3, *upper.fractions),
                   blocks=(upper.blocks[0], *upper.blocks))
    for crossover in (0.0, 0.375):
        network.curves = {**network.curves, "b030": replace(lower, crossover=crossover), "b050": down}
        program, end = program_of(network, between=True), network.curves["b030"].serves_to(0.3, 0.5)
        for budget in (0.3, 0.32, 0.325, 0.36, end, 0.42, 0.5, 0.61):
            assert (network.point(budget).name == "b030") == (budget <= end)
            for exact in (False, True):
                assert torch.equal(run_program(program, x, budget, exact), in_python(network, x, budget, exact)), budget


def test_a_pickled_operator_loads_its_library_where_it_comes_to(small, monkeypatch) -> None:
    network, _ = small
    kept, loaded = pickle.dumps(bdsa.portable(network, [0.4])), []
    library = torch_operator.torch_library
    monkeypatch.setattr(torch_operator, "torch_library", lambda: loaded.append(1) or library())
    found = pickle.loads(kept)
    assert loaded == [1]
    x = images_of((1, 32, 32))
    assert torch.equal(found(x, torch.tensor(0.4)), in_python(network, x, 0.4)) and found.budgets == (0.4,)
