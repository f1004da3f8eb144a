"""The GPU's kernels compile for sm_80 and sm_90 and use no stack: what spills costs more than it saves."""
from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")

from gpu_compile import TOOLS, compiled, starts  # noqa: E402

# The kernels that need most registers, of the networks of the benchmarks, by what their names and constants begin with.
HEAVY = {("resnet50", torch.bfloat16): ["decide", "windows_product C=64 N=256 KP=64", "windows C=256",
                                        "windows_product C=128 N=512 KP=256", "product K=256 N=1024 KP=512"],
         ("convnext_tiny", torch.bfloat16): ["depthwise_norm C=96", "mlp C=192", "mlp C=384", "product K=768 N=3072"],
         ("resnet50", torch.float32): ["windows C=64", "list_mask", "context_sums"]}


@pytest.mark.slow
@pytest.mark.skipif(not (TOOLS / "cuobjdump").exists(), reason="this Triton brings no cuobjdump")
@pytest.mark.parametrize("name, dtype", HEAVY, ids=str)
def test_they_compile_without_spilling(name: str, dtype: torch.dtype) -> None:
    found = starts(name, dtype, large=dtype == torch.float32)
    for beginning in HEAVY[name, dtype]:
        each = next(start for start in found if str(start).startswith(beginning))
        for capability in (80, 90):
            assert compiled(each, capability).stack == 0, (capability, str(each))
