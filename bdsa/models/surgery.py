"""Turn a timm network into an adaptive one, in place, by changing classes: every weight keeps its name."""
from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from timm.models.convnext import ConvNeXt, ConvNeXtBlock
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from bdsa.budgets import Budgets
from bdsa.errors import UserError, nearest
from bdsa.method.masks import MASK_NORMS, MASK_STARTS
from bdsa.method.norms import AFFINE, NORMS
from bdsa.models import torchvision_networks
from bdsa.models.blocks import AdaptiveBasicBlock, AdaptiveBlock, AdaptiveBottleneck, AdaptiveConvNeXtBlock
from bdsa.models.cifar_resnet import CifarResNet
from bdsa.models.network import AdaptiveNetwork
from bdsa.models.timm_networks import AdaptiveCifarResNet, AdaptiveConvNeXt, AdaptiveResNet

BLOCKS: dict[type[nn.Module], type[AdaptiveBlock]] = {
    BasicBlock: AdaptiveBasicBlock,
    Bottleneck: AdaptiveBottleneck,
    ConvNeXtBlock: AdaptiveConvNeXtBlock,
    **torchvision_networks.BLOCKS,
}
NETWORKS: dict[type[nn.Module], type[AdaptiveNetwork]] = {
    ResNet: AdaptiveResNet,
    ConvNeXt: AdaptiveConvNeXt,
    CifarResNet: AdaptiveCifarResNet,
    **torchvision_networks.NETWORKS,
}
SUPPORTED = ("resnet10t ... resnet152 (also b, c, d, s, t stems), resnext*, wide_resnet*, "
             "convnext_* (atto ... xxlarge), convnextv2_*, cifar_resnet8 ... cifar_resnet110, torchvision's ResNets "
             "and ConvNeXts, and modules of their blocks that have trunk() and forward_head(x)")
OVERRIDDEN = ("trunk", "forward_features", "forward_intermediates")  # of a class, with the same meaning
PARTS = ("forward_head", "feature_info", "num_classes")  # what an adaptive network uses of its class


def adapt(network: nn.Module, budgets: Iterable[float], norm_affine: str = "separate", name: str = "this network",
          mask_norm: str = "none", mask_start: str = "random", submanifold: bool = False) -> int:
    """Give every residual block of a network mask units and norms per budget, in place.

        network = torchvision.models.resnet50(weights="IMAGENET1K_V2")
        bdsa.adapt(network, [0.3, 0.5])
        logits = network(images, budget=0.3)

    Args:
        network: timm's or torchvision's ResNet or ConvNeXt, a CifarResNet, or a module of such blocks (see
            `bdsa.register_model`) or of blocks of one's own (`bdsa.register_block`), with its pretrained weights
            already loaded: every budget's norms start from them.
        budgets: fractions in (0, 1]; 1.0 needs nothing of its own.
        norm_affine: "separate" or "shared" weight and bias of the norms.
        name: what to call the network in errors.
        mask_norm: "none" or "batch" norm of the mask units' logits.
        mask_start: "random" or "activity", how the mask units start.
        submanifold: compute a block's first layer at its mask and not at the mask's dilation (docs/method.md, section
            3; Graham and van der Maaten, Submanifold Sparse Convolutional Networks, 2017).

    Returns:
        The number of adapted blocks.

    Raises:
        UserError: for a network or block that cannot be adapted; it lists what can.
    """
    budgets = budgets if isinstance(budgets, Budgets) else Budgets(budgets)
    if norm_affine not in AFFINE:
        raise UserError(f"norm_affine '{norm_affine}' is neither separate nor shared{nearest(norm_affine, AFFINE)}")
    if mask_norm not in MASK_NORMS:
        raise UserError(f"mask_norm '{mask_norm}' is neither none nor batch{nearest(mask_norm, MASK_NORMS)}")
    if mask_start not in MASK_STARTS:
        raise UserError(f"mask_start '{mask_start}' is neither random nor activity{nearest(mask_start, MASK_STARTS)}")
    if not isinstance(submanifold, bool):
        raise UserError(f"submanifold {submanifold!r} is neither True nor False")
    make_adaptable(network, name)
    reason = _why_not(network)
    if reason:
        raise UserError(f"{name} cannot be adapted: {reason}; these can: {SUPPORTED}")
    check_names(network, name)
    blocks = [m for m in network.modules() if type(m) in BLOCKS]
    for block in blocks:
        if submanifold and BLOCKS[type(block)].can_be_submanifold is AdaptiveBlock.can_be_submanifold:
            raise UserError(f"submanifold=true is for basic blocks and bottlenecks of ResNets; {name} has a "
                            f"{type(block).__name__}")
    for block in blocks:
        block.__class__ = BLOCKS[type(block)]
        assert isinstance(block, AdaptiveBlock)
        block.add_budgets([b.name for b in budgets.adaptive], norm_affine, mask_norm, mask_start)
        block.submanifold = submanifold and block.can_be_submanifold()
    network.__class__ = NETWORKS[type(network)]
    assert isinstance(network, AdaptiveNetwork)
    network.set_budgets(budgets)
    network.norm_affine, network.mask_norm, network.submanifold = norm_affine, mask_norm, submanifold
    return len(blocks)


def _why_not(network: nn.Module) -> str:
    """Why a network cannot be adapted, or an empty string."""
    if isinstance(network, AdaptiveNetwork):
        return f"it is adaptive already, for {network.budgets}"
    if type(network) not in NETWORKS:
        return f"a {type(network).__name__} has no adaptive form"
    blocks = [m for m in network.modules() if type(m) in BLOCKS]
    if not blocks:
        return "it has no block with an adaptive form"
    for block in blocks:
        kind = type(block).__name__
        if getattr(block, "se", None) is not None:
            return f"its {kind} has channel attention, which looks at every position"
        if not isinstance(getattr(block, "aa", nn.Identity()), nn.Identity):
            return f"its {kind} has an anti-aliasing filter"
        if not isinstance(getattr(block, "drop_block", nn.Identity()), nn.Identity):
            return f"its {kind} uses drop block"
        if type(block) is ConvNeXtBlock and not isinstance(block.shortcut, nn.Identity):
            return "its ConvNeXtBlock changes resolution inside the block"
        norms = [m for n, m in block.named_children() if n.startswith(("bn", "norm"))]
        if type(block) in torchvision_networks.BLOCKS and hasattr(block, "block"):
            norms = [block.get_submodule("block.2")]
        for norm in norms:
            if type(norm) not in NORMS:
                return f"its {kind} normalises with {type(norm).__name__}"
    return ""


def register_block(dense: type[nn.Module]) -> Callable[[type[AdaptiveBlock]], type[AdaptiveBlock]]:
    """Decorator that makes a class the adaptive form of a block of one's own, in any network that holds such blocks.

        @bdsa.register_block(MyBlock)
        class MyAdaptiveBlock(bdsa.AdaptiveBlock, MyBlock):
            norm_names = ("bn1", "bn2")             # attributes that get a norm a budget
            def geometry(self): ...                 # input channels and stride
            def layers(self): ...                   # convolutions that are computed at D(m), and those at m
            def masked(self, x, mask, budget): ...  # identity + mask * residual(x)

    It inherits from `bdsa.AdaptiveBlock`, then from the block, keeps the block's attributes and adds none. Norms are
    called as `self.bn1(x, budget)`. In sparse execution such a block runs masked, in the midst of others. Where its
    `layers` and `masked` heed `self.submanifold`, let its `can_be_submanifold()` be True.

    Args:
        dense: the block's class; exactly its instances are adapted.

    Raises:
        UserError: for a class that lacks a part, or a block that has an adaptive form already.
    """
    def add(adaptive: type[AdaptiveBlock]) -> type[AdaptiveBlock]:
        name = getattr(adaptive, "__name__", adaptive)
        if dense in BLOCKS and BLOCKS[dense].__qualname__ != adaptive.__qualname__:
            raise UserError(f"block {dense.__name__} has an adaptive form already: {BLOCKS[dense].__name__}")
        if not (isinstance(adaptive, type) and issubclass(adaptive, AdaptiveBlock) and issubclass(adaptive, dense)):
            raise UserError(f"{name} must inherit from bdsa.AdaptiveBlock and {dense.__name__}, in this order")
        lacking = [part for part in ("geometry", "layers", "masked") if getattr(adaptive, part) is
                   getattr(AdaptiveBlock, part)] + [n for n in ("norm_names",) if not hasattr(adaptive, n)]
        if lacking:
            raise UserError(f"{name} has no {' and no '.join(lacking)}")
        BLOCKS[dense] = adaptive
        return adaptive
    return add


def make_adaptable(network: nn.Module, name: str) -> None:
    """Give a class with a trunk its adaptive form; other classes are left to `adapt`, which says what it supports."""
    kind = type(network)
    if kind in NETWORKS or not hasattr(kind, "trunk") or isinstance(network, AdaptiveNetwork):
        return
    if lacking := [part for part in PARTS if not hasattr(network, part)]:
        raise UserError(f"model {name}: a {kind.__name__} has no {' and no '.join(lacking)}")
    check_names(network, name)
    NETWORKS[kind] = _adaptive_class(kind)


def check_names(network: nn.Module, name: str) -> None:
    """Raise UserError if a network and its adaptive form would each take a name for something else."""
    if isinstance(network, AdaptiveNetwork):
        return
    kinds = [kind for kind in type(network).__mro__ if kind not in nn.Module.__mro__]
    own = {*vars(network), *network._parameters, *network._buffers, *network._modules}.union(*map(vars, kinds))
    if taken := sorted(own & _adaptive_names()):
        raise UserError(f"{name} cannot be adapted: adaptive networks have a '{taken[0]}' of their own, and so has "
                        f"{type(network).__name__}: give it another name there")


def _adaptive_names() -> set[str]:
    """What adaptive networks have that no other network has: methods, settings and what they keep."""
    kinds = [kind for kind in AdaptiveNetwork.__mro__ if kind not in nn.Module.__mro__]
    found = set().union(*({*vars(kind), *getattr(kind, "__annotations__", {})} for kind in kinds))
    return found - {*dir(nn.Module), *nn.Module.__annotations__, *PARTS, *OVERRIDDEN}


def _adaptive_class(kind: Any) -> type[AdaptiveNetwork]:
    """A class's adaptive form."""
    def reduce(network: AdaptiveNetwork, protocol: int) -> tuple:
        return _empty, (kind,), vars(network)  # the class has no name to be found by; the user's has

    return type(f"Adaptive{kind.__name__}", (AdaptiveNetwork, kind), {"trunk": kind.trunk, "__reduce_ex__": reduce})


def _empty(kind: type[nn.Module]) -> AdaptiveNetwork:
    """A network of a class's adaptive form whose state comes next: how pickle and copy begin."""
    adaptive = NETWORKS.setdefault(kind, _adaptive_class(kind))
    return adaptive.__new__(adaptive)
