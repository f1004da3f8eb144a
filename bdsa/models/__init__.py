"""Adaptive networks: timm's residual networks with mask units and norms per budget; weights and checkpoints."""
