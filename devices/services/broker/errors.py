"""Errors of the broker's administration."""


class BrokerUnavailable(Exception):
    """The broker did not execute the request; `manage.py sync_broker` repairs its accounts later."""


class BrokerRefused(BrokerUnavailable):
    """The broker responded to a command with an error."""
