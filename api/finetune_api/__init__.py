"""The contract of FineTuneJob: what users write, what the operator passes to the trainer, and what it reports back.

Imported by the operator, the trainer and the command line. It depends on pydantic only, so that the operator's
image stays free of torch and the trainer's image free of kopf.
"""

GROUP = "finetune.dev"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
KIND = "FineTuneJob"
PLURAL = "finetunejobs"
