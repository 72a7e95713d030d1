"""The Python API: build, validate, submit and follow FineTuneJobs from Python."""
