"""How a program is laid out as bytes: words of 64 bits, then weights. `native/program.h` says what each word is."""
from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bdsa.method.cascade import Confidence
from bdsa.method.curves import Curve, Point
from bdsa.method.exact import running
from bdsa.sparse import native
from bdsa.sparse.follower import Instruction

MAGIC, VERSION = 0x4D52504153444221, 4
ALIGNED = 64
HEADER, ROW = 12, 7


@dataclass(frozen=True)
class Range:
    """Budgets that one packing of weights serves: one, or all from first to last, which a curve's offsets reach."""
    first: float
    last: float
    point: Point
    curve: Curve | None = None


@dataclass(frozen=True)
class Header:
    """What holds for all of a program: registers, columns of a panel, precision, and the network's sizes.

    cascade: how sure first answers are, where the program looks twice at those that are unsure.
    """
    registers: int
    width: int
    precision: str
    classes: int
    channels: int
    blocks: int
    cascade: Confidence | None = None


class Pool:
    """Weights one after another, equal ones once. Places count from the pool's start."""

    def __init__(self) -> None:
        self.parts: list[Tensor] = []
        self.size = 0
        self.places: dict[bytes, int] = {}

    def place(self, weights: Tensor) -> int:
        """Where these weights lie; they are put there if need be."""
        flat = weights.contiguous().view(-1).view(torch.uint8)
        key = hashlib.sha256(flat.numpy()).digest()
        if key not in self.places:
            self.places[key] = self.size
            self.parts += [flat, torch.zeros(-len(flat) % ALIGNED, dtype=torch.uint8)]
            self.size += len(flat) + len(self.parts[-1])
        return self.places[key]


class _Place(int):
    """A place in the pool, from its start."""


Words = list[int | float | _Place]


def encoded(instructions: list[Instruction], pool: Pool) -> Words:
    """Words: weights as places in the pool, a missing one as 0."""
    words: Words = []
    for code, arguments in instructions:
        words += [code, len(arguments)]
        words += [_Place(pool.place(a)) if isinstance(a, Tensor) else 0 if a is None else a for a in arguments]
    return words


def worded(ranges: list[Range], codes: list[Words], header: Header, curves: Mapping[str, Curve]) -> Words:
    """All words, their number of bytes and digest left open.

    Args:
        ranges, codes: what serves which budgets, and its instructions.
        curves: of the network.
    """
    rows: list[int | float] = []
    behind: Words = []
    purses: dict[str | None, int] = {None: 0}  # by the budget whose masks decide; the dense network has none
    start = HEADER + ROW * len(ranges)
    for each, code in zip(ranges, codes):
        name, curve = each.point.name, each.curve
        if name not in purses:
            purses[name] = start + len(behind)
            behind += _purse(curves.get(name), header.blocks)
        words = [] if curve is None else [len(curve.fractions), *curve.fractions, *curve.offsets]
        place = start + len(behind)
        rows += [each.first, each.last, place + len(words), len(code), place if words else 0, purses[name],
                 float(each.point.offset)]
        behind += [*words, *code]
    cascade, known = 0, header.cascade
    if known is not None:
        cascade = start + len(behind)
        behind += [*known.budgets, *known.fractions, len(known.levels), *known.levels]
    value = 2 if header.precision == "bfloat16" else 4
    return [MAGIC, VERSION, 0, 0, 0, value, header.width, header.classes, header.channels, header.registers,
            len(ranges), cascade, *rows, *behind]


def _purse(curve: Curve | None, blocks: int) -> Words:
    """What exact budgets expect of the blocks: numbers of offsets and blocks, offsets, each block's fractions there."""
    offsets, fractions = running(curve, blocks)
    return [len(offsets), blocks, *offsets.tolist(), *fractions.T.flatten().tolist()]


def joined(words: Words, pool: Pool) -> Tensor:
    """The bytes, uint8, with a digest of all that stands behind it, which is checked where they are loaded."""
    start = -(-8 * len(words) // ALIGNED) * ALIGNED
    words[2] = start + pool.size
    packed = bytearray(start)
    for i, word in enumerate(words):
        word = word + start if isinstance(word, _Place) else word
        struct.pack_into("<d" if isinstance(word, float) else "<q", packed, 8 * i, word)
    whole = torch.cat([torch.frombuffer(packed, dtype=torch.uint8), *pool.parts])
    whole[32:40] = torch.frombuffer(bytearray(hashlib.sha256(whole.numpy()).digest()[:8]), dtype=torch.uint8)
    digest = native.digests(native.pieces([(whole.data_ptr() + 32, len(whole) - 32)]))
    whole[24:32] = torch.frombuffer(bytearray(digest), dtype=torch.uint8)
    return whole
