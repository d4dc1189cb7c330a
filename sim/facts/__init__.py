"""What a run leaves behind: facts, from which every metric and figure is derived.  Imports nothing
of the engine."""
