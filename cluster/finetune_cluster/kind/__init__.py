"""kind: Kubernetes in a Docker container, for machines with Docker."""
