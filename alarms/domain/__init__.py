"""Pure definitions of alarms: rules, their evaluation over readings, and revisions by late data."""
