"""One thread: the networks are tiny, and two threads that share a core with another program crawl."""
import torch

torch.set_num_threads(1)
