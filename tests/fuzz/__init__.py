"""What nobody would send: `python -m tests.fuzz --seconds 3600`, and a little of it in every run of the tests."""
