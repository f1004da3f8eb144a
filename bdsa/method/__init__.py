"""The paper as pure functions of tensors: masks, dilation, norms, losses, awareness, MACs; they import torch alone."""
