"""Several workers on one machine: started, watched, replaced and told what all of them do together.

Serves no exchange itself. Asked by `gateway serve` alone; it knows the rooms below by what a worker says of them.
"""
