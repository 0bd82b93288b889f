"""Rules and their versions, the evaluation of stored readings, and what users do with alarms."""
