"""Pods of systolic arrays: power, interconnects, tiling, schedule and timing, without a clock."""
