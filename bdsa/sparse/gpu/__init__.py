"""Sparse execution on NVIDIA GPUs: Triton kernels over lists of positions that are made on the device.

Nothing here waits for the device: how long a list is stays in its memory, grids are fixed, and every program goes on
to the next tile until the list ends. So a whole inference can be captured as one CUDA graph. Without a GPU the
kernels run in Triton's interpreter (`TRITON_INTERPRET=1`, set before the first import) and compile for sm_80 and
sm_90, which the tests do. They have not been run on a GPU yet.
"""
