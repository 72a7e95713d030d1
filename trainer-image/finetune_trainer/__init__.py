"""The trainer: fine-tunes a model as a RunConfig says, in a pod or on a laptop.

Start it as `python -m finetune_trainer RUN.json`.
"""
