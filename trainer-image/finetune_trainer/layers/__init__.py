"""Torch modules and what is asked of them; imports nothing of ours."""
