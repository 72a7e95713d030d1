"""Pure: from a job, the settings and an attempt's number to the Kubernetes objects of that attempt."""
