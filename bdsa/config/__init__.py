"""What can be set: settings with their rules, options, overrides, plug-ins, targets; the one seam to OmegaConf."""
