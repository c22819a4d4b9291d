"""The one loop that trains victims, and what it resumes from and runs through."""
