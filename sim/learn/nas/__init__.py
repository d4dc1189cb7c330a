"""Searching networks for a systolic array: operations, then channels, by gradients."""
