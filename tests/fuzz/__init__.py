"""Malformed and random messages: `python -m tests.fuzz --seconds 3600`, and some of them in every run of the tests."""
