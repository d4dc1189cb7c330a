"""What a model asks of a device: op graphs."""
