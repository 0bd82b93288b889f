"""Rotation campaigns: new keys for many devices, with overlap, evidence, an end, and a way back.

`campaigns` is what people do, `steps` what the workers do every minute, `uses` what the listener notes.
"""
