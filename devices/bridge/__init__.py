"""The program of a gateway: takes messages of off-the-shelf devices on a local broker, and sends them as their gateway.

It runs without the platform: copy this directory and `gwanje_device.py` to the gateway.
"""
