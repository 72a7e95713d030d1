"""From a folder and a tokenizer to a torch model: heads, adapters, freezing, vocabulary, precision."""
