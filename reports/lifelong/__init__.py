"""The record and the chapter of lifelong runs."""
