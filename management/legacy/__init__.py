"""Import of the old server: a dump of its tables, as CSV files, into a tenant."""
