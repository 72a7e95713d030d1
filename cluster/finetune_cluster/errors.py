"""The error of this package: what is wrong, and the remedy."""


class ClusterError(Exception):
    """The cluster cannot do what was requested; the message ends with a remedy."""
