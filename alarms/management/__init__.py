"""The place where Django finds commands."""
