"""Training and measuring a network: the step, the loop, the losses, calibration, results."""
