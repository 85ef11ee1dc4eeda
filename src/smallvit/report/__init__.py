"""Reports: what a run folder holds, made readable. Reads records, never trains."""
