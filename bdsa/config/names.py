"""Names that settings and code share."""

WEIGHT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".tar")
EXECUTIONS = ("masked", "sparse", "auto")  # ways to run a budget; see AdaptiveNetwork.execution
