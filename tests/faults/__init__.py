"""The fault test: one fault after the other at load, and afterwards the books must balance."""
