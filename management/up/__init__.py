"""`manage.py up`: the whole platform on one machine, servers and processes, until Ctrl-C."""
