"""Evolution over attacks and over cells."""
