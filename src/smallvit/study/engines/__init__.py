"""Where the runs of a study take place: each engine starts jobs, and says how they ended."""
