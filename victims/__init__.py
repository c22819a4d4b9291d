"""Victims: the hashing models that are attacked."""
