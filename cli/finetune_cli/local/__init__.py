"""`finetune local`: a FineTuneJob on this machine, planned and decided as the operator does, without Kubernetes."""
