"""What goes wrong between the platform and the broker's administration."""


class BrokerUnavailable(Exception):
    """The broker did not do it; `manage.py sync_broker` brings its accounts in step later."""


class BrokerRefused(BrokerUnavailable):
    """The broker answered a command with an error."""
