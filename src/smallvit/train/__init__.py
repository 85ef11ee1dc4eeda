"""Training: optimisers, schedule, the loop."""
