"""A process that reads large JSON documents, and has no socket to read them from."""

from gateway.proxy.reading_process import main

if __name__ == "__main__":
    main()
