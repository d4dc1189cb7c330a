"""Text in and out: YAML read strictly, and quantities with their units."""
