"""All that touches llvmlite: how kernels are compiled, and the instructions and loops that numba lacks."""
