"""Turn a timm network into an adaptive one, in place, by changing classes: every weight keeps its name."""
from __future__ import annotations

from timm.models.convnext import ConvNeXt, ConvNeXtBlock
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from bdsa.budgets import Budgets
from bdsa.errors import UserError, nearest
from bdsa.method.masks import MASK_NORMS, MASK_STARTS
from bdsa.method.norms import AFFINE, NORMS
from bdsa.models.blocks import AdaptiveBasicBlock, AdaptiveBlock, AdaptiveBottleneck, AdaptiveConvNeXtBlock
from bdsa.models.cifar_resnet import CifarResNet
from bdsa.models.network import AdaptiveCifarResNet, AdaptiveConvNeXt, AdaptiveNetwork, AdaptiveResNet

BLOCKS: dict[type[nn.Module], type[AdaptiveBlock]] = {
    BasicBlock: AdaptiveBasicBlock,
    Bottleneck: AdaptiveBottleneck,
    ConvNeXtBlock: AdaptiveConvNeXtBlock,
}
NETWORKS: dict[type[nn.Module], type[AdaptiveNetwork]] = {
    ResNet: AdaptiveResNet,
    ConvNeXt: AdaptiveConvNeXt,
    CifarResNet: AdaptiveCifarResNet,
}
SUPPORTED = ("resnet10t ... resnet152 (also b, c, d, s, t stems), resnext*, wide_resnet*, "
             "convnext_* (atto ... xxlarge), convnextv2_*, cifar_resnet8 ... cifar_resnet110")


def adapt(network: nn.Module, budgets: Budgets, norm_affine: str = "separate", name: str = "this network",
          mask_norm: str = "none", mask_start: str = "random") -> int:
    """Give every residual block of a timm network mask units and norms per budget, in place.

    Args:
        network: a ResNet, ConvNeXt or CifarResNet, with its pretrained weights already loaded:
            every budget's norms start from them.
        budgets: the budgets; 1.0 needs nothing of its own.
        norm_affine: "separate" or "shared" weight and bias of the norms.
        name: what to call the network in errors.
        mask_norm: "none" or "batch" norm of the mask units' logits.
        mask_start: "random" or "activity", how the mask units start.

    Returns:
        The number of adapted blocks.

    Raises:
        UserError: for a network or block that cannot be adapted; it lists what can.
    """
    if norm_affine not in AFFINE:
        raise UserError(f"norm_affine '{norm_affine}' is neither separate nor shared{nearest(norm_affine, AFFINE)}")
    if mask_norm not in MASK_NORMS:
        raise UserError(f"mask_norm '{mask_norm}' is neither none nor batch{nearest(mask_norm, MASK_NORMS)}")
    if mask_start not in MASK_STARTS:
        raise UserError(f"mask_start '{mask_start}' is neither random nor activity{nearest(mask_start, MASK_STARTS)}")
    reason = _why_not(network)
    if reason:
        raise UserError(f"{name} cannot be adapted: {reason}; these can: {SUPPORTED}")
    blocks = [m for m in network.modules() if type(m) in BLOCKS]
    for block in blocks:
        block.__class__ = BLOCKS[type(block)]
        assert isinstance(block, AdaptiveBlock)
        block.add_budgets([b.name for b in budgets.adaptive], norm_affine, mask_norm, mask_start)
    network.__class__ = NETWORKS[type(network)]
    assert isinstance(network, AdaptiveNetwork)
    network.set_budgets(budgets)
    return len(blocks)


def _why_not(network: nn.Module) -> str:
    """Why a network cannot be adapted, or an empty string."""
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
        spatial = [m for m in block.modules() if isinstance(m, nn.Conv2d) and m.kernel_size != (1, 1)]
        if any(m.dilation != (1, 1) for m in spatial):
            return f"its {kind} has dilated convolutions (output_stride below 32)"
        if type(block) is ConvNeXtBlock and not isinstance(block.shortcut, nn.Identity):
            return "its ConvNeXtBlock changes resolution inside the block"
        for norm in (m for n, m in block.named_children() if n.startswith(("bn", "norm"))):
            if type(norm) not in NORMS:
                return f"its {kind} normalises with {type(norm).__name__}"
    return ""
