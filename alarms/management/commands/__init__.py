"""The command of alarms."""
