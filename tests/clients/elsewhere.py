"""What clients ask beside the gateway: a forward proxy that writes down which hosts are wanted, and connects nobody."""

from __future__ import annotations

import socket
import threading


class Elsewhere:
    """Listens until the process ends. Not every client goes by a proxy: Node's `fetch` does not."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._hosts: set[str] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def environ(self) -> dict[str, str]:
        """What a client's environment says of it."""
        url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        here = "127.0.0.1,localhost"
        return {"HTTPS_PROXY": url, "https_proxy": url, "NO_PROXY": here, "no_proxy": here}

    def taken(self) -> list[str]:
        """The hosts that were wanted since this was last asked."""
        hosts, self._hosts = sorted(self._hosts), set()
        return hosts

    def _accept(self) -> None:
        while True:
            connection, _ = self._listening.accept()
            threading.Thread(target=self._refuse, args=(connection,), daemon=True).start()

    def _refuse(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(10)
            try:
                method, _, target = connection.recv(4096).decode("latin-1").partition(" ")
                if method == "CONNECT":
                    self._hosts.add(target.partition(":")[0])
                connection.sendall(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
            except OSError:
                pass
