"""bdsa-benchmark: how fast a training or an inference is on this machine, against whom."""
