"""The contract of FineTuneJob: what users write, what the operator hands to the trainer, and what comes back.

Imported by the operator, the trainer and the command line. It needs pydantic and nothing else, so that the
operator's image stays free of torch and the trainer's of kopf.
"""

GROUP = "finetune.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"
