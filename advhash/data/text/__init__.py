"""Captions: counted words, tokens, sentence embeddings, and what a changed word is."""
