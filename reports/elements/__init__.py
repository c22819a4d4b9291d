"""What every chapter is made of."""
