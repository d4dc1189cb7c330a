"""Constants from measurements: what the catalogue's FITTED numbers were made with."""
