"""Ensembles: the members of a job, and when they are combined. Pure."""
