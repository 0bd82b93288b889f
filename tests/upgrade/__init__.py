"""The upgrade from a former revision, played on a live database under load."""
