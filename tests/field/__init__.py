"""Messages of real devices: what they mean, and what the platform makes of them without editing."""
