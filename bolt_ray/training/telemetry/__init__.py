"""What a run says of itself: its record, and everything that reads it while it is written."""
