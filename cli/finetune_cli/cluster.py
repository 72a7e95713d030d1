"""The connection of a command."""

from finetune_sdk import Client


def connect(namespace: str | None, context: str | None, kubeconfig: str | None) -> Client:
    """The cluster and namespace that the options name. Raises ConfigError."""
    return Client(namespace, context=context, kubeconfig=kubeconfig)
