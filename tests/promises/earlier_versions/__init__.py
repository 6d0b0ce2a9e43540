"""What earlier versions left in Redis, recorded by record.py, one file for each."""
