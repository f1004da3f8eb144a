"""Data: the embedded cluttered digits, image folders and CIFAR, and loaders that replay exactly."""
