"""From hf:// to local paths."""
