"""Machines as a scenario describes them."""
