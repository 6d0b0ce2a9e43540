"""What the API offers: the table as data, its scopes, and where each operation names its model.

Every room above may ask, and the simulator. Nothing here knows who calls, or performs I/O beyond reading its
own table once; what a caller may do with an operation is decided in `policy`.
"""
