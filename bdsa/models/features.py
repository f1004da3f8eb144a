"""Feature maps at a budget: timm's methods with a budget, and where the stages of a network end."""
from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from types import ModuleType
from typing import Any

from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.compiler import is_compiling

from bdsa.budgets import Budgets
from bdsa.errors import UserError
from bdsa.method.exact import ExactBudget
from bdsa.models.asking import asked_around, asking


class FeatureMethods:
    """What an adaptive network adds to its class's feature methods; it comes before that class."""

    budgets: Budgets
    execution: str
    precision: str
    feature_info: list[dict[str, Any]]
    exact: Callable[..., ExactBudget | None]
    adaptive_blocks: Callable[[], list[nn.Module]]

    def at_budget(self, budget: float, extrapolate: bool | None = None, per_image: bool | None = None
                  ) -> AbstractContextManager[None]:
        """`AdaptiveNetwork.at_budget`."""
        raise NotImplementedError

    def trunk(self) -> list[nn.Module]:
        """`AdaptiveNetwork.trunk`."""
        raise NotImplementedError

    def forward_features(self, x: Tensor, *arguments: Any, budget: float | None = None, per_image: bool | None = None,
                         **more: Any) -> Tensor:
        """timm's: the last feature map [B, C, h, w], at a budget.

        Args:
            budget: one, as in `forward`; None: that of `at_budget`, or dense, which one line says.
            per_image: as in `forward`.
        """
        with self._asked_for(x, budget, per_image):
            if not arguments and not more and (ran := _sparse_maps(self, x, (len(self.trunk()) - 1,))) is not None:
                return ran[0]
            known = getattr(super(), "forward_features", None)
            if known is not None:
                return known(x, *arguments, **more)
            for module in self.trunk():
                x = module(x)
            return x

    def forward_intermediates(self, x: Tensor, indices: int | list[int] | None = None, norm: bool = False,
                              stop_early: bool = False, output_fmt: str = "NCHW", intermediates_only: bool = False,
                              *, budget: float | None = None, per_image: bool | None = None, **more: Any) -> Any:
        """timm's: feature maps of stages, at a budget; see `forward_features`."""
        with self._asked_for(x, budget, per_image):
            known = getattr(super(), "forward_intermediates", None)
            if not norm and not more and output_fmt == "NCHW":
                chosen = sorted(feature_take_indices(len(self.feature_info), indices)[0])
                ends = stage_ends(self, chosen)
                last = [] if intermediates_only else [len(self.trunk()) - 1]
                places = sorted({*ends, *last})
                maps = _sparse_maps(self, x, tuple(places))
                if maps is None and known is None:
                    maps = trunk_maps(self, x, places)
                if maps is not None:
                    at = dict(zip(places, maps))
                    found = [at[end] for end in ends]
                    return found if intermediates_only else (at[last[0]], found)
            if known is None:
                raise UserError(f"forward_intermediates of a {type(self).__name__} takes indices, stop_early and "
                                f"intermediates_only alone")
            return known(x, indices, norm, stop_early, output_fmt, intermediates_only, **more)

    @contextmanager
    def _asked_for(self, x: Tensor, budget: float | None, per_image: bool | None) -> Iterator[None]:
        """Within it one pass of images x runs at a budget, or at that which is asked around it."""
        with nullcontext() if budget is None else self.at_budget(budget):
            around = asked_around(self)
            if around is None or around.request is None or around.calls is not None:
                yield
                return
            exact = self.exact(around.point, (x.shape[2], x.shape[3]), around.exactly(per_image))
            request = replace(around.request, exact=exact)
            with asking(self, self.adaptive_blocks(), around.point, request, around.given, around.used):
                yield


def trunk_maps(network: Any, x: Tensor, ends: Sequence[int]) -> list[Tensor]:
    """The outputs of a trunk's modules at the given places, [B, C, h, w] each. x: [B, 3, H, W]."""
    found, following = [], iter(network.trunk())
    for start, end in zip((-1, *ends), ends):
        for module in itertools.islice(following, end - start):
            x = module(x)
        found.append(x)
    return found


def stage_ends(network: Any, chosen: Iterable[int]) -> list[int]:
    """Where the chosen stages of `feature_info` end in the network's trunk."""
    names = {id(module): name for name, module in network.named_modules()}
    trunk = [names.get(id(module), "") for module in network.trunk()]
    ends = []
    for index in chosen:
        stage = network.feature_info[index].get("module")
        places = [i for i, name in enumerate(trunk) if name == stage or name.startswith(f"{stage}.")]
        if not places:
            raise UserError(f"feature_info[{index}] of this network names the module {stage}, which is no part of its "
                            f"trunk(): give 'module', the name of a stage")
        ends.append(places[-1])
    return ends


def _sparse_maps(network: Any, x: Tensor, ends: tuple[int, ...]) -> list[Tensor] | None:
    """Maps at the budget that is asked around the call, sparsely; None where masked execution must make them."""
    around = asked_around(network)
    if around is None or around.calls is not None or is_compiling():
        return None
    if network.execution == "masked" and network.precision == "float32":
        return None
    exact = None if around.request is None else around.request.exact
    ran = sparse_execution().run_sparse(network, x, around.point, None, False, ends, exact)
    return None if ran is None else ran[0]


@functools.cache
def sparse_execution() -> ModuleType:
    """`bdsa.sparse.execution`, found by its name: it is made of the blocks of networks, which know nothing of it."""
    return importlib.import_module("bdsa.sparse.execution")
