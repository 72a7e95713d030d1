"""The Python API: build, validate, submit and follow FineTuneJobs from Python.

from finetune_sdk import Client, FineTuneJob

job = Client().submit(FineTuneJob.from_yaml("job.yaml")).wait()
job.model.metrics
"""

from finetune_sdk.client import Client
from finetune_sdk.finetunejob import FineTuneJob
from finetune_sdk.job import Job

__all__ = ["Client", "FineTuneJob", "Job"]
