"""Which images a cascade looks at twice: those least sure at first, as many as a mean budget pays for."""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

MOST_LEVELS = 1001


def confidence(logits: Tensor) -> Tensor:
    """How sure answers are: the log-odds of the likeliest class.

    It ranks images as that class's probability does, which in float32 becomes 1 for all sure images alike.

    Args:
        logits: [B, classes], two classes at least.

    Returns:
        float32 [B].
    """
    logits = logits.float()
    best, at = logits.max(dim=1)
    return best - logits.scatter(1, at[:, None], -torch.inf).logsumexp(dim=1)


@dataclass(frozen=True)
class Confidence:
    """How sure a network's first answers are, and what a first and a second look cost, as a mean over images.

    Attributes:
        budgets: of the first look, which every image has, and of the second.
        fractions: the conditional fractions of the two looks.
        levels: of the first answers' `confidence`, ascending, from the least to the most sure image in even shares.
        images: how many it was measured on.

    Raises:
        ValueError: for what no measurement gives.
    """
    budgets: tuple[float, float]
    fractions: tuple[float, float]
    levels: tuple[float, ...]
    images: int

    def __post_init__(self) -> None:
        for pair, name in ((self.budgets, "budgets"), (self.fractions, "fractions")):
            if len(pair) != 2 or not 0 < pair[0] < pair[1] <= 1:
                raise ValueError(f"its {name} are no smaller and larger one of 0 to 1")
        if not 2 <= len(self.levels) <= MOST_LEVELS or not all(map(math.isfinite, self.levels)):
            raise ValueError("its levels are too few, too many or no numbers")
        if not all(a <= b for a, b in pairwise(self.levels)):
            raise ValueError("its levels do not ascend")
        if isinstance(self.images, bool) or not isinstance(self.images, int) or self.images < 1:
            raise ValueError("it is of no images")

    @classmethod
    def of(cls, budgets: Sequence[float], fractions: Sequence[float], values: Tensor) -> Confidence:
        """From what was measured; `values`: the first answers' confidence, [N].

        Raises:
            ValueError: where one of them is not finite.
        """
        levels = values.double().quantile(torch.linspace(0, 1, min(MOST_LEVELS, max(2, len(values))),
                                                         dtype=torch.float64, device=values.device))
        first, second = map(float, budgets)
        return cls((first, second), (float(fractions[0]), float(fractions[1])),
                   tuple(round(level, 5) for level in levels.tolist()), len(values))

    @property
    def most(self) -> float:
        """The mean budget at which every image is looked at twice; 1 at most. Six digits, as budgets have."""
        return min(math.floor(sum(self.fractions) * 1e6) / 1e6, 1.0)

    def reaches(self, budget: float) -> bool:
        """Whether both looks can spend a mean budget; 1, in one dense look, is no matter of theirs."""
        return self.budgets[0] <= budget <= self.most

    def share(self, budget: float) -> float:
        """The share of images that a mean budget pays a second look for."""
        return min(max((budget - self.fractions[0]) / self.fractions[1], 0.0), 1.0)

    def threshold(self, budget: float) -> float:
        """The confidence below which an image is looked at again; infinite where none or all are."""
        share = self.share(budget)
        if share in (0.0, 1.0):
            return math.inf if share else -math.inf
        place = share * (len(self.levels) - 1)
        low = min(int(place), len(self.levels) - 2)
        return self.levels[low] + (place - low) * (self.levels[low + 1] - self.levels[low])

    def plain(self) -> dict[str, Any]:
        """Lists and numbers, for files; see `confidence_of`."""
        return {"budgets": list(self.budgets), "fractions": list(self.fractions), "levels": list(self.levels),
                "images": self.images}


def confidence_of(plain: Mapping[str, Any]) -> Confidence:
    """What `Confidence.plain` wrote.

    Raises:
        ValueError: for anything else.
    """
    try:
        (first, second), (lower, upper) = plain["budgets"], plain["fractions"]
        return Confidence((float(first), float(second)), (float(lower), float(upper)),
                          tuple(map(float, plain["levels"])), plain["images"])
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError("it is not budgets, fractions, levels and images") from error
