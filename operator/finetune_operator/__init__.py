"""The operator: watches FineTuneJobs, runs each attempt as a Job, and records the model in status."""
