"""From the user's files to batches of token ids: read, clean, deduplicate, split, tokenize, batch."""
