"""Items that an attacker plants in a vector store, for queries that nobody has asked yet."""
