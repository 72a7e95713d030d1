"""The model folder: card, curve, checksums, rename."""
