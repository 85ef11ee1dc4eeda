"""Studies: sets of runs that answer one question together, what they run, and where they run it."""
