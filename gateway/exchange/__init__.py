"""What is known of one exchange, its log line, and the instruments that count it.

Asked by everything that handles an exchange. Nothing here performs I/O but the writer of log lines.
"""
