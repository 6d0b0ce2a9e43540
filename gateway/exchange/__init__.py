"""What is known of one exchange, its log line, and the instruments that count it.

Every room above may ask; mostly `proxy` and `middleware`, which handle exchanges. Nothing here performs I/O
but the writer of log lines.
"""
