"""The definition of the numbers, in NumPy and the standard library alone."""
