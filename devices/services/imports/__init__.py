"""Devices in numbers: a table is read, compared with what there is, and registered row by row."""
