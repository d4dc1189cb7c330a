"""The version of podscope, as it stands in every result."""

VERSION = "0.1.0"
