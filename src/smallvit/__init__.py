"""smallvit."""
