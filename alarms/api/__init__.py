"""Addresses, members and views of alarms in the tenant's API."""
