"""`gateway objects`: whose each stored object is, said, changed, saved and brought back."""
