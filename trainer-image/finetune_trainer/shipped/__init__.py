"""Files that are copied into model folders; imports nothing of ours."""
