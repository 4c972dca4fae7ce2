"""The operations on the CPU's kernels with their gradients: one file an operation, over the same `routes`."""
