"""Pictures: decoded, kept in rows of mapped files, split."""
