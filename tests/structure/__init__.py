"""Measures the structure of a checkout: files, import levels, circles, class names, sizes, docstrings."""
