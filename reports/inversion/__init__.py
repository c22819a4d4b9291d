"""The record and the chapter of reconstructions."""
