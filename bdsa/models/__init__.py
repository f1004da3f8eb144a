"""Adaptive networks: timm's residual networks with mask units and norms per budget."""

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".tar")
