"""Clusters for tests, demo and development: embedded (no Docker needed), kind, or one that exists already."""
