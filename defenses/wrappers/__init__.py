"""Defences that stand in front of a victim and train nothing."""
