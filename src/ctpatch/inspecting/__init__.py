"""What is in a folder of raw CT, before anything is written: the first thing to run."""
