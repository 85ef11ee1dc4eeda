"""Data: from public files to one cached uint8 form, the first station."""
