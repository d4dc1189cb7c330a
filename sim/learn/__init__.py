"""What needs torch (extra `learn`): nothing else in the package imports it."""
