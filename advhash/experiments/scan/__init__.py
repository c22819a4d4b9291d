"""A folder of pictures under perceptual hashes as they are run: at a threshold."""
