"""The errors that only Kafka brings."""

from queryexport.errors import ConfigurationError


class UnknownTopic(ConfigurationError):
    """The cluster has no topic of that name, or its user may not see it."""
