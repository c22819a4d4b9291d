"""Unified functional hashing: functions that are equal are evaluated once."""
