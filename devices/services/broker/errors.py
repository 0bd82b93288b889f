"""Errors of the broker: of its administration and of publishing."""


class BrokerUnavailable(Exception):
    """The broker did not confirm a request or a message, which may have arrived or not.

    `manage.py sync_broker` repairs its accounts later.
    """


class BrokerRefused(BrokerUnavailable):
    """The broker responded to a command with an error."""
