"""`advhash poison`."""
