"""The method itself, in small pure modules: they import torch and nothing else of this package."""
