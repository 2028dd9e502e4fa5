"""Singular values of one network's input Jacobian: all of them, or extremes, mean and density without the matrix."""
