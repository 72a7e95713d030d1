"""Preflight: what can be known of a run without its devices, before it asks for them."""
