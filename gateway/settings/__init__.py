"""What an operator can set, how it is read, and how its files are followed.

Every room above may ask; mostly those who are wired in `app`, and the commands. Nothing here acts on a setting.
"""
