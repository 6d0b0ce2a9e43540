"""The pod of deploy/kubernetes as a kubelet would run it, but in folders of a test: files, arguments, variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

MANIFESTS = Path(__file__).parents[2] / "deploy" / "kubernetes"


def objects(file: str = "gateway.yaml") -> dict[str, Any]:
    """The objects of a manifest, by kind and name: `Service/gateway`."""
    documents = yaml.safe_load_all((MANIFESTS / file).read_text("utf-8"))
    return {f"{each['kind']}/{each['metadata']['name']}": each for each in documents}


def pod() -> dict[str, Any]:
    """What the Deployment says of each of its pods."""
    return objects()["Deployment/gateway"]["spec"]["template"]


def container() -> dict[str, Any]:
    """The one container of the pod."""
    (only,) = pod()["spec"]["containers"]
    return only


class Pod:
    """Its volumes, and the command that the kubelet would start with them."""

    def __init__(self, root: Path, **environ: str) -> None:
        """`root` is where the container's root would be; `environ` wins over the manifest's variables."""
        self.root = root
        self._versions = 0
        self._mounts = {mount["name"]: mount["mountPath"] for mount in container()["volumeMounts"]}
        said = {variable["name"]: variable["value"] for variable in container()["env"]}
        self.environ = {name: self._inside(value) for name, value in said.items()} | environ
        self.arguments = tuple(self._inside(argument) for argument in container()["args"])

    def folder(self, volume: str) -> Path:
        """Where one of its volumes is mounted."""
        return self.root / self._mounts[volume].removeprefix("/")

    def mount(self, volume: str, files: Mapping[str, str]) -> None:
        """Mount a ConfigMap or a Secret, in place of what was mounted: all its files change at once.

        As the kubelet does it: links to what is under `..data`, which is a link to a folder of this version. Files are
        of the mode that the manifest names, and of the group that the pod runs as, which here is the test's.
        """
        self._versions += 1
        folder = self.folder(volume)
        version = folder / f"..2026_{self._versions:02}"
        version.mkdir(parents=True)
        for name, text in files.items():
            (version / name).write_text(text, "utf-8")
            os.chown(version / name, -1, os.getegid())
            (version / name).chmod(self._mode(volume))
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(f"..data/{name}")
        for gone in folder.iterdir():
            if gone.is_symlink() and not gone.name.startswith("..") and gone.name not in files:
                gone.unlink()
        (folder / "..data_tmp").symlink_to(version.name)
        (folder / "..data_tmp").replace(folder / "..data")

    def _mode(self, volume: str) -> int:
        source = next(each for each in pod()["spec"]["volumes"] if each["name"] == volume)
        return int((source.get("secret") or source["configMap"]).get("defaultMode", 0o644))

    def _inside(self, text: str) -> str:
        """The same argument or value, with paths of the container's leading to the test's folders."""
        for path in self._mounts.values():
            text = text.replace(path, str(self.root / path.removeprefix("/")))
        return text
