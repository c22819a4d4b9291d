"""What all kinds of run stand on: victims, defences and attacks, trained or cached."""
