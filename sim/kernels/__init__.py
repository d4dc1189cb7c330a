"""Kernels as numbers, not as costs: references that say what an attention computes."""
