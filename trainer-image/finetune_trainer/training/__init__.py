"""One run: the story, its state, the loop, evaluation, non-finite steps and debugging aids."""
