"""The one error of this package: what is wrong and what the reader can do about it."""


class ClusterError(Exception):
    """The cluster cannot do what was asked; the message ends with a remedy."""
