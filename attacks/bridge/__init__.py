"""The attacks of torchattacks on codes."""
