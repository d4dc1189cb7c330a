"""A static batch: one prefill, then every decode step with a context that grows."""
