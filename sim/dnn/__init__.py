"""Neural networks as matrix products."""
