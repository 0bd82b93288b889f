"""Benchmarks: each prints JSON, compares two things in one run, and verifies its own output."""
