"""A package of somebody else's: rows and files that its entry points add to podscope."""
