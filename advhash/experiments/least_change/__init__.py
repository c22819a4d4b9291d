"""How little can suffice for a perceptual hash: proven, reached, and stored in 8 bits."""
