"""What an operator can set, how it is read, and how its files are followed.

Asked by everything that is wired in `app` and by the commands. Nothing here acts on a setting.
"""
