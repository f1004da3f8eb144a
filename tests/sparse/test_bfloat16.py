"""Inference in bfloat16: the same network to rounding, sparsely and masked."""
from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from sparse_cases import BUDGETS, NETWORKS, SIZES, assert_near, images_of, kept_network, network_of
from torch import Tensor

from bdsa.errors import UserError
from bdsa.sparse import executors, native, operators, precision, reference
from bdsa.sparse.packing import Form, Packed, pack, pack_groups, rows_first, taps_first
from bdsa.sparse.precision import distance

pytestmark = pytest.mark.skipif(native.unavailable() is not None, reason="needs the native kernels")


@pytest.mark.parametrize("name", NETWORKS)
def test_given_masks_give_the_logits_of_float32_to_rounding(name: str) -> None:
    assert_near(kept_network(name), images_of(SIZES[1]), "scattered")


@pytest.mark.slow
@pytest.mark.parametrize("size", [SIZES[0], SIZES[2], (1, 97, 65)], ids=lambda s: "x".join(map(str, s)))
@pytest.mark.parametrize("kind", ["empty", "full", "one position", "scattered"])
def test_so_do_all_sizes_and_kinds_of_masks(kind: str, size: tuple[int, int, int]) -> None:
    for name in ("cifar_resnet14", "resnet26d", "resnext50_32x4d", "convnextv2_atto"):
        assert_near(kept_network(name), images_of(size), kind)


def whole(generator: torch.Generator, *shape: int, most: int = 1) -> Tensor:
    """Whole numbers, which bfloat16 holds exactly."""
    return torch.randint(-most, most + 1, shape, generator=generator).float()


def packed(weight: Tensor, bias: Tensor, by_rows: bool = False) -> Iterator[Packed]:
    """A convolution's weight for the reference in float32 and for the kernels in bfloat16."""
    yield pack(taps_first(weight), bias, Form())
    yield pack(rows_first(weight) if by_rows else taps_first(weight), bias, native.form(torch.bfloat16))


@pytest.mark.parametrize("channels, middle", [(16, 24), (40, 64), (64, 16), (96, 80)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("submanifold", [False, True])
def test_blocks_give_what_pytorch_gives_position_by_position(channels: int, middle: int, stride: int,
                                                             submanifold: bool) -> None:
    generator = torch.Generator().manual_seed(channels)
    size = (9 - 1) // stride + 1, (13 - 1) // stride + 1
    x, mask = whole(generator, 3, 9, 13, channels), torch.rand(3, *size, generator=generator) < 0.6
    first, second = whole(generator, middle, channels, 3, 3), whole(generator, middle, middle, 3, 3)
    identity = whole(generator, 3, *size, middle, most=9)
    found, rows = [], []
    for form, dtype in enumerate((torch.float32, torch.bfloat16)):
        w1 = list(packed(first / 16, torch.zeros(middle), channels <= 64))[form]
        w2 = list(packed(second / 64, torch.ones(middle), middle <= 64))[form]
        out, counted = identity.to(dtype, copy=True), torch.zeros(2, dtype=torch.int64)
        run = (reference if form == 0 else operators).basic
        run(out, x.to(dtype), mask, counted, stride, submanifold, w1.weight, w1.bias, w2.weight, w2.bias, None, None,
            None, 1, False, None, None, None, 0)
        found.append(out.float())
        rows.append(counted.tolist())
    assert rows[0] == rows[1] and rows[0][1] == mask.sum()
    assert torch.allclose(found[1], found[0], rtol=1 / 64, atol=0.15)
    assert torch.equal(found[1][~mask], identity[~mask]) and not torch.equal(found[0][mask], identity[mask])


@pytest.mark.parametrize("channels, group", [(64, 4), (96, 24), (48, 16)])
@pytest.mark.parametrize("submanifold", [False, True])
def test_grouped_convolutions_read_their_own_channels(channels: int, group: int, submanifold: bool) -> None:
    generator = torch.Generator().manual_seed(group)
    x, mask = whole(generator, 2, 7, 9, channels), torch.rand(2, 7, 9, generator=generator) < 0.5
    outer, grouped = whole(generator, channels, channels, 1, 1) / 4, whole(generator, channels, group, 3, 3) / 4
    found = []
    for form, dtype in ((Form(), torch.float32), (native.form(torch.bfloat16), torch.bfloat16)):
        w1 = w3 = pack(taps_first(outer), torch.zeros(channels), form)
        w2 = pack_groups(grouped, torch.zeros(channels), group, form)
        out = torch.zeros(2, 7, 9, channels, dtype=dtype)
        run = (reference if dtype == torch.float32 else operators).bottleneck
        run(out, x.to(dtype), mask, torch.zeros(2, dtype=torch.int64), 1, submanifold, w1.weight, w1.bias, w2.weight,
            w2.bias, group, w3.weight, w3.bias, None, None, None, 1, False, None, None, None, 0)
        found.append(out.float())
    assert torch.allclose(found[1], found[0], rtol=1 / 32, atol=0.15) and found[0].abs().max() > 1


@pytest.mark.parametrize("channels, kernel, stride, columns", [
    (3, 7, 2, 64), (3, 4, 4, 96), (3, 3, 1, 16), (1, 3, 1, 40), (24, 2, 2, 48), (64, 2, 2, 33)])
def test_dense_layers_are_exact_on_whole_numbers(channels: int, kernel: int, stride: int, columns: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = whole(generator, 2, 45, 79, channels)
    weight, bias = whole(generator, columns, channels, kernel, kernel), whole(generator, columns, most=5)
    expected = torch.nn.functional.conv2d(x.permute(0, 3, 1, 2), weight, bias, stride).permute(0, 2, 3, 1)
    matrix = pack(rows_first(weight), bias, native.form(torch.bfloat16))
    for dtype in (torch.float32, torch.bfloat16):
        out = torch.empty(expected.shape, dtype=dtype)
        operators.convolution(out, x.bfloat16(), matrix.weight, matrix.bias, stride, "none")
        assert torch.equal(out, expected.to(dtype))
    pooled = torch.empty(2, *((side - 1) // 2 + 1 for side in expected.shape[1:3]), columns, dtype=torch.bfloat16)
    operators.convolution_pool(pooled, x.bfloat16(), matrix.weight, matrix.bias, stride, "relu")
    largest = torch.nn.functional.max_pool2d(expected.relu().permute(0, 3, 1, 2), 3, 2, 1).permute(0, 2, 3, 1)
    assert torch.equal(pooled, largest.bfloat16())


def test_images_come_in_any_strides() -> None:
    for channels in (1, 3, 4):
        x = torch.randn(2, channels, 5, 70)
        expected = torch.nn.functional.pad(x, (2, 2, 2, 2)).permute(0, 2, 3, 1).bfloat16()
        for image in (x, x.to(memory_format=torch.channels_last), x.transpose(2, 3).contiguous().transpose(2, 3)):
            out = torch.empty(expected.shape, dtype=torch.bfloat16)
            operators.pad(out, image.permute(0, 2, 3, 1), 2)
            assert torch.equal(out, expected)


def test_what_is_no_number_stays_so_in_a_pool() -> None:
    x = torch.randn(1, 9, 9, 24).bfloat16()
    x[0, 4, 4, 3] = float("nan")
    one = pack(torch.eye(24)[None], torch.zeros(24), native.form(torch.bfloat16))
    out = torch.empty(1, 5, 5, 24, dtype=torch.bfloat16)
    operators.convolution_pool(out, x, one.weight, one.bias, 1, "none")
    expected = torch.nn.functional.max_pool2d(x.float().permute(0, 3, 1, 2), 3, 2, 1).permute(0, 2, 3, 1)
    window = torch.zeros(5, 5, dtype=torch.bool)
    window[2, 2] = True  # the only one that reads the position, of which the products with 0 are no numbers either
    assert out[0, window].isnan().all() and torch.equal(out[0, ~window].float(), expected[0, ~window])


def test_masks_are_its_own_and_nearly_those_of_float32() -> None:
    network, images = network_of("resnet26"), images_of((4, 64, 64))
    network.execution, found = "sparse", {}
    with torch.inference_mode():
        for network.precision in ("float32", "bfloat16"):
            found[network.precision] = network(images, budget=BUDGETS[0], return_usage=True)
    (logits, exact), (rounded, used) = found.values()
    positions = sum(mask.numel() for mask in exact.masks)
    apart = sum(int((a != b).sum()) for a, b in zip(exact.masks, used.masks, strict=True))
    assert 0 <= apart < 0.02 * positions
    assert float(used.conditional_fraction.mean()) == pytest.approx(float(exact.conditional_fraction.mean()), abs=0.01)
    assert distance(rounded, logits) > 0


def test_float32_is_untouched_by_it() -> None:
    network, images = network_of("cifar_resnet8"), images_of(SIZES[0])
    network.execution = "sparse"
    before = {name: t.clone() for name, t in network.state_dict().items()}
    with torch.inference_mode():
        logits = network(images, budget=0.4)
        network.precision = "bfloat16"
        assert not torch.equal(network(images, budget=0.4), logits)
        network.precision = "float32"
        assert torch.equal(network(images, budget=0.4), logits)
    after = network.state_dict()
    assert all(torch.equal(after[name], t) and after[name].dtype == t.dtype for name, t in before.items())


def test_auto_keeps_float32_where_the_logits_would_move(monkeypatch: pytest.MonkeyPatch,
                                                        caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(precision, "is_native", lambda: True)
    monkeypatch.setattr(executors, "_said", set())
    network, images = network_of("cifar_resnet8"), images_of(SIZES[0])
    network.execution, network.precision = "sparse", "float32"
    with torch.inference_mode():
        exact = network(images, budget=0.4)
        network.precision = "auto"
        assert not torch.equal(network(images, budget=0.4), exact)
        network.weights_changed()
        monkeypatch.setattr(precision, "LIMIT", 0.0)
        assert torch.equal(network(images, budget=0.4), exact)
    assert "float32 instead of bfloat16: logits are" in caplog.text


@pytest.mark.parametrize("faster", [False, True])
def test_instructions_for_bfloat16_are_taken_where_they_are_faster(faster: bool,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "multiplies", lambda: True)
    monkeypatch.setattr(native, "bfloat16_is_faster", lambda: faster)
    assert precision.dtype_of("auto") == (torch.bfloat16 if faster else torch.float32)


def test_auto_is_float32_where_the_processor_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "is_native", lambda: False)
    network, images = network_of("cifar_resnet8"), images_of(SIZES[0])
    with torch.inference_mode():
        masked = network(images, budget=0.4)
        network.precision = "auto"
        assert torch.equal(network(images, budget=0.4), masked)


def test_a_wrong_precision_is_said() -> None:
    with pytest.raises(UserError, match="did you mean 'bfloat16'"):
        network_of("cifar_resnet8").precision = "bfloat"
