"""Run the Dockerfile's steps, and what they make, without a container engine: python .ci/image.py, as root.

The steps are read from the Dockerfile. They run in a clean root of Debian, which stands in for the image that FROM
names. What they make runs as the Dockerfile says, as its numeric user, as process 1, on a file system that can only
be read but for what VOLUME says, and with no program in it but Python: `gateway serve` in front of a simulator must
answer, HEALTHCHECK pass, and STOPSIGNAL end it, however early it comes.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson

ROOT = Path(__file__).parent.parent
PACKAGES = ("base-files", "coreutils", "dash", "libc-bin", "python3-venv")
NAMES_OF_THIS_MACHINE = ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf", "/etc/ssl/certs")
"""What a step that runs has of this machine, so that pip finds its index."""

PASSED = re.compile(r"PIP_(?!FIND_LINKS)|SSL_CERT|(https?|no)_proxy$", re.IGNORECASE)
STARTING_SECONDS = 30
STOPPING_SECONDS = 15


@dataclass
class Image:
    """A root file system, and what the Dockerfile has said of it so far."""

    root: Path
    env: dict[str, str] = field(default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin"})
    words: dict[str, str] = field(default_factory=dict)
    """The last of each of USER, WORKDIR, VOLUME, ENTRYPOINT, CMD, HEALTHCHECK and STOPSIGNAL."""

    def command(self, word: str) -> list[str]:
        """The words of an instruction that names a command, which none gives to a shell."""
        return [str(part) for part in orjson.loads("[" + self.words[word].partition("[")[2])]

    @property
    def workdir(self) -> str:
        """Where commands begin."""
        return self.words.get("WORKDIR", "/")


def main() -> None:
    """Build it and try it; AssertionError and CalledProcessError say what went wrong."""
    if os.geteuid() != 0:
        sys.exit("it makes root file systems and mounts them: run it as root")
    if "--inside" not in sys.argv:  # what is mounted ends with the namespace it is mounted in
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", *sys.orig_argv, "--inside"])
    with tempfile.TemporaryDirectory(prefix="image-") as work:
        began = time.monotonic()
        image = built(Path(work))
        files = (file.lstat().st_size for file in (image.root / "opt").rglob("*"))
        say(f"built in {time.monotonic() - began:.0f} s; it adds {sum(files) / 1e6:.0f} MB")
        with contained(image, Path(work)):
            serves(image)
            stops_early(image)


def say(what: str) -> None:
    """Tell whoever watches."""
    print(what, flush=True)


# Building


def built(work: Path) -> Image:
    """What the Dockerfile's last stage makes."""
    base = clean_root(work / "base")
    images: dict[str, Image] = {}
    image = Image(base)
    for word, rest in instructions((ROOT / "Dockerfile").read_text("utf-8")):
        match word:
            case "FROM":
                origin, _, name = rest.partition(" AS ")
                assert origin == "${PYTHON}", f"only an image of Python is stood in for: {origin}"
                image = images[name] = Image(work / (name or "image"))
                subprocess.run(["cp", "--archive", base, image.root], check=True)
            case "COPY":
                copy(image, images, shlex.split(rest))
            case "RUN":
                run(image, rest)
            case "ENV":
                for name, value in re.findall(r"(\w+)=(\S+)", rest):
                    image.env[name] = value.replace(f"${name}", image.env.get(name, ""))
            case "ARG" | "LABEL" | "EXPOSE":
                pass
            case "WORKDIR" | "USER" | "VOLUME" | "ENTRYPOINT" | "CMD" | "HEALTHCHECK" | "STOPSIGNAL":
                image.words[word] = rest
                if word == "WORKDIR":
                    inside(image, rest).mkdir(parents=True, exist_ok=True)
            case _:
                raise AssertionError(f"{word} is not known here")
    return image


def instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    """Each instruction of a Dockerfile, as a word and the rest of it on one line."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE).replace("\\\n", " ")
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        yield word, " ".join(rest.split())


def inside(image: Image, path: str) -> Path:
    """A path of the image, relative ones from its WORKDIR, seen from here."""
    return image.root / os.path.normpath(f"{image.workdir}/{path}" if path[0] != "/" else path).lstrip("/")


def clean_root(root: Path) -> Path:
    """A Debian with Python and little more, where python and pip are called as in an image of Python."""
    release = re.search(r"^VERSION_CODENAME=(\w+)", Path("/etc/os-release").read_text("utf-8"), re.MULTILINE)
    assert release is not None
    make = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={','.join(PACKAGES)}"]
    subprocess.run([*make, release[1], root], check=True)
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    run(Image(root), "python3 -m venv /usr/local")
    return root


def copy(image: Image, images: dict[str, Image], words: list[str]) -> None:
    """COPY, from another stage or from here; compiled files of the working tree are in .dockerignore."""
    options = dict(word[2:].split("=") for word in words if word.startswith("--"))
    *sources, target = (word for word in words if not word.startswith("--"))
    for source in sources:
        origin = inside(images[options["from"]], source) if "from" in options else ROOT / source
        place = inside(image, target)
        if origin.is_file():
            shutil.copy2(origin, place / origin.name)
            continue
        ignored = None if "from" in options else shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(origin, place, symlinks=True, ignore=ignored)
        if "chown" in options:
            subprocess.run(["chown", "--recursive", options["chown"], place], check=True)


def run(image: Image, command: str) -> None:
    """RUN, with this machine's way to the index of packages."""
    with ExitStack() as stack:
        stack.enter_context(devices(image.root))
        for path in filter(os.path.exists, NAMES_OF_THIS_MACHINE):
            stack.enter_context(mounted(Path(path), image.root / path[1:]))
        passed = {name: value for name, value in os.environ.items() if PASSED.match(name)}
        more = {"HOME": "/root", "PIP_QUIET": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        unshare = ["unshare", "--mount", "--pid", "--fork", "--mount-proc"]
        shell = [f"--root={image.root}", f"--wd={image.workdir}", "/bin/sh", "-ec", command]
        subprocess.run([*unshare, *shell], env=passed | more | image.env, check=True)


@contextmanager
def mounted(source: Path, place: Path, *options: str) -> Iterator[None]:
    """Show a file or folder of this machine inside a root."""
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir() if source.is_dir() else place.touch()
    subprocess.run(["mount", "--bind", source, place], check=True)
    if options:
        subprocess.run(["mount", "-o", ",".join(("remount", "bind", *options)), place], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@contextmanager
def devices(root: Path) -> Iterator[None]:
    """The few devices that a container has."""
    place = root / "dev"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755,size=1m", "tmpfs", place], check=True)
    for name in ("null", "zero", "full", "random", "urandom"):
        os.mknod(place / name, 0o20666, Path("/dev", name).stat().st_rdev)
        (place / name).chmod(0o666)
    (place / "fd").symlink_to("/proc/self/fd")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


# Running


@contextmanager
def contained(image: Image, work: Path) -> Iterator[None]:
    """Nothing can be written but to the volume, and nothing run but Python."""
    for folder in ("bin", "usr/bin", "usr/sbin"):
        for program in (image.root / folder).iterdir():
            if not program.name.startswith("python3"):
                program.unlink()
    volume = image.words["VOLUME"]
    subprocess.run(["cp", "--archive", inside(image, volume), work / "volume"], check=True)
    with (
        mounted(image.root, image.root, "ro", "nosuid", "nodev"),
        mounted(work / "volume", inside(image, volume)),
        devices(image.root),
    ):
        yield


def serves(image: Image) -> None:
    """It answers, is found healthy, and ends when it is told to."""
    simulated, public, private = free_port(), free_port(), free_port()
    env = {
        "GATEWAY_LISTEN": f"0.0.0.0:{public}",
        "GATEWAY_ADMIN_LISTEN": f"0.0.0.0:{private}",
        "GATEWAY_DRAIN_NOTICE_SECONDS": "0.2",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{simulated}/v1",
        "OPENAI_API_KEY": "sk-simulated",
    }
    simulator = ["python", "-m", "gateway.simulator", "--port", str(simulated)]
    entry = image.command("ENTRYPOINT")
    with container(image, simulator, {}), container(image, [*entry, *image.command("CMD")], env) as gateway:
        began = time.monotonic()
        while executed(image, gateway, image.command("HEALTHCHECK"), env).returncode:
            assert gateway.poll() is None, "it ended by itself"
            assert time.monotonic() < began + STARTING_SECONDS, "it never became healthy"
            time.sleep(0.1)
        say(f"healthy after {time.monotonic() - began:.1f} s")
        user = re.findall(r"^[UG]id:\s+(\d+)\s", Path(f"/proc/{first_of(gateway)}/status").read_text(), re.M)
        assert ":".join(user) == image.words["USER"]
        issue = [*entry, "credential", "issue", "--tenant", "default", "--scope", "*"]
        issued = executed(image, gateway, issue, env)
        assert issued.returncode == 0, issued.stderr
        for question in ("Hello", "Hello " * 50_000):  # the large one is read by a process beside it
            answer = answered(public, issued.stdout.strip(), question)
            assert answer.endswith(b"data: [DONE]\n\n"), answer[-200:]
        say("answers, by the volume's key")
        os.kill(first_of(gateway), signal.Signals[image.words["STOPSIGNAL"]])
        assert gateway.wait(STOPPING_SECONDS) == 0
        say(f"{image.words['STOPSIGNAL']} ends it, code 0")


def stops_early(image: Image) -> None:
    """It ends when it is told to while it still starts: process 1 does not hear what it has not asked for."""
    env = {
        "GATEWAY_LISTEN": f"0.0.0.0:{free_port()}",
        "GATEWAY_ADMIN_LISTEN": f"0.0.0.0:{free_port()}",
        "OPENAI_API_KEY": "sk-simulated",
    }
    number = signal.Signals[image.words["STOPSIGNAL"]]
    with container(image, [*image.command("ENTRYPOINT"), *image.command("CMD")], env) as gateway:
        began = time.monotonic()
        while not hears(first_of(gateway), number):
            assert time.monotonic() < began + STARTING_SECONDS, f"it never listens for {number.name}"
        heard = time.monotonic()
        os.kill(first_of(gateway), number)
        assert gateway.wait(STOPPING_SECONDS) == 128 + number
        lasted = time.monotonic() - heard
        say(f"listens for {number.name} {heard - began:.2f} s after its start, and ends in {lasted:.2f} s")


def hears(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    caught = re.search(r"^SigCgt:\s+(\w+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return caught is not None and bool(int(caught[1], 16) >> (number - 1) & 1)


@contextmanager
def container(image: Image, command: Sequence[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command as process 1 of a container; the process here stands for that, and has its code."""
    user, group = image.words["USER"].split(":")
    unshare = ["unshare", "--mount", "--pid", "--fork", "--mount-proc"]
    place = [f"--root={image.root}", f"--wd={image.workdir}", f"--setgid={group}", f"--setuid={user}"]
    whole = ["setpriv", "--no-new-privs", *unshare, *place, *command]
    with tempfile.TemporaryFile("w+") as said:
        running = subprocess.Popen(whole, env=image.env | env, stdout=subprocess.DEVNULL, stderr=said)
        try:
            yield running
        except BaseException:
            said.seek(0)
            sys.stderr.write(said.read())
            raise
        finally:
            for process in children_of(running):  # with the first of a container go all others
                os.kill(process, signal.SIGKILL)
            running.wait()


def children_of(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that this one has started and not yet outlived."""
    try:
        return [
            int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        ]
    except FileNotFoundError:
        return []


def first_of(container: subprocess.Popen[bytes]) -> int:
    """Process 1 of a container, by its number here."""
    while not (found := children_of(container)):
        assert container.poll() is None, "it has ended"
        time.sleep(0.001)
    return found[0]


def executed(
    image: Image, container: subprocess.Popen[bytes], command: Sequence[str], env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end in a container that runs."""
    user, group = image.words["USER"].split(":")
    enter = ["nsenter", f"--target={first_of(container)}", "--mount", "--pid", "--root", "--wd"]
    whole = [*enter, f"--setgid={group}", f"--setuid={user}", *command]
    return subprocess.run(whole, env=image.env | env, capture_output=True, text=True, check=False)


def answered(port: int, credential: str, question: str) -> bytes:
    """A streamed answer, whole."""
    body = {"model": "gpt-4o-mini", "stream": True, "messages": [{"role": "user", "content": question}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/chat/completions",
        data=orjson.dumps(body),
        headers={"Authorization": f"Bearer {credential}", "Content-Type": "application/json"},
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=20) as answer:
        return bytes(answer.read())


def free_port() -> int:
    """A port that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    main()
