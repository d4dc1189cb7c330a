"""Inference of neural networks on an array of systolic pods."""
