"""podscope."""
