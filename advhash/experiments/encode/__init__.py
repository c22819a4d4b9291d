"""What codes encode."""
