"""Adaptive networks: timm's residual networks with mask units and norms per budget."""

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".tar")
EXECUTIONS = ("masked", "sparse", "auto")  # ways to run a budget; see AdaptiveNetwork.execution
