"""Pods of systolic arrays: machine, networks, tiling, schedule and timing, without a clock."""
