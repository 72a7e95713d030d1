"""From the user's files to batches of token ids: read, clean, drop repeats, split, tokenize, batch."""
