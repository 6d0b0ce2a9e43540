"""Which clients there are, what each needs, and how it is run: data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Command = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Runtime:
    """A folder beside this module, copied to where the work is done, where all commands are run."""

    folder: str
    needs: tuple[str, ...]
    """Programs that must be on PATH."""

    prepare: tuple[Command, ...] = ()
    """Fetches what the folder requires. One that fails is reported, and its clients with it."""

    example: Command = ()
    """Runs an example of docs/clients.md. `{file}` is its file in the folder, `{name}` that without its ending."""

    language: str = ""
    """What docs/clients.md calls the code that this runtime can run."""


@dataclass(frozen=True, slots=True)
class Client:
    """One program of a runtime's folder."""

    name: str
    """RUNTIME/NAME."""

    run: Command
    needs: tuple[str, ...] = ()
    """Programs beside its runtime's."""

    tls: bool = False
    """Whether it can do nothing without the gateway that speaks TLS."""

    unprepared: bool = False
    """Whether it needs nothing of what its runtime's folder fetches."""

    @property
    def runtime(self) -> str:
        return self.name.partition("/")[0]


RUNTIMES: Final = (
    Runtime(
        "node",
        needs=("node", "npm"),
        prepare=(("npm", "install", "--no-audit", "--no-fund", "--loglevel=error"),),
        example=("node", "{file}"),
        language="js",
    ),
    Runtime(
        "go",
        needs=("go",),
        prepare=(("go", "mod", "tidy"), ("go", "build", "-o", "clients", ".")),
        example=("go", "run", "{file}"),
        language="go",
    ),
    Runtime(
        "java",
        needs=("java", "mvn"),
        prepare=(("mvn", "-q", "-B", "-ntp", "dependency:copy-dependencies", "-DoutputDirectory=lib"),),
        example=("java", "-cp", "lib/*", "{file}"),
        language="java",
    ),
    Runtime(
        "chromium",
        needs=("node", "npm", "chromium"),
        prepare=(("npm", "install", "--no-audit", "--no-fund", "--loglevel=error"),),
    ),
    Runtime(
        "python",
        needs=("python3",),
        prepare=(
            ("python3", "-m", "venv", "venv"),
            ("venv/bin/pip", "install", "-q", "-r", "requirements.txt"),
        ),
        example=("venv/bin/python", "{file}"),
        language="python",
    ),
    Runtime("shell", needs=("bash",), example=("bash", "-euo", "pipefail", "{file}"), language="sh"),
    Runtime(
        "commands",
        needs=("bash", "npm"),
        prepare=(("npm", "install", "--no-audit", "--no-fund", "--loglevel=error"),),
        example=("bash", "-euo", "pipefail", "{file}"),
        language="bash",
    ),
    Runtime("dotnet", needs=("dotnet",), example=("dotnet", "run", "{file}"), language="csharp"),
)

CLIENTS: Final = (
    Client("node/openai", ("node", "openai.mjs")),
    # Node reads of whom to believe when it starts.
    Client(
        "node/realtime",
        ("sh", "-c", 'NODE_EXTRA_CA_CERTS="$TLS_CA_FILE" exec node realtime.mjs'),
        needs=("sh",),
        tls=True,
    ),
    Client(
        "chromium/pages",
        ("sh", "-c", 'cp ../node/tried.mjs . && CHROMIUM="$(command -v chromium)" exec node pages.mjs'),
        needs=("sh",),
        tls=True,
    ),
    Client("go/openai-go", ("./clients",)),
    Client("java/openai-java", ("java", "-cp", "lib/*", "OpenAiJava.java")),
    Client("java/http-client", ("java", "JdkHttpClient.java"), unprepared=True),
    Client("shell/curl", ("bash", "curl.sh"), needs=("curl",)),
)

FETCHES: Final = frozenset({"opencode.sh", "openai_chat.cs"})
"""The examples of docs/clients.md that fetch packages of their own when they are run; no other asks anybody else."""
