"""Made for one victim, judged on others; with a defence and without."""
