"""Hyperparameter search: a FineTuneJob whose children, the trials, are FineTuneJobs. Pure."""
