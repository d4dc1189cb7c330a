"""Edges and a cloud that train one network together."""
