"""Ways of a trainer's weights into running vLLM servers: a folder that both see, or NCCL between GPUs.

Both need the server's development endpoints (VLLM_SERVER_DEV_MODE=1), which let anyone who can reach the port replace
its weights: start such servers inside a trusted network only.
"""

from __future__ import annotations

import json
import shutil
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import uuid4

from stages.rollout.weights import Weights

WeightSync = Literal["disk", "nccl"]
GROUP_PORT = 51216
"""First port of the NCCL groups, TRL's default; the server number i takes the one i further."""


class Transport(Protocol):
    """Brings weights to every server."""

    def send(self, weights: Weights, device: Any) -> None:
        """Every server samples with `weights` from here on. `device` is the trainer's."""
        ...


class DiskWeights:
    """Writes a safetensors file for each update, and tells the servers to load it."""

    def __init__(self, urls: Sequence[str], folder: Path, timeout: float) -> None:
        """`folder` is a path that means the same on the servers' machines."""
        self.urls = urls
        self.folder = folder.absolute()
        self.timeout = timeout
        self.prefix = uuid4().hex[:12]  # two runs may share the folder
        self.updates = 0

    def send(self, weights: Weights, device: Any) -> None:
        from safetensors.torch import save_file

        # A path of its own for each update: nothing on the way can serve the last one's content.
        self.updates += 1
        place = self.folder / f"{self.prefix}-{self.updates:06d}"
        place.mkdir(parents=True)
        try:
            # Copies: safetensors refuses the shared memory of tied matrices, and vLLM needs both names.
            copies = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in weights}
            save_file(copies, place / "model.safetensors", metadata={"format": "pt"})
            with ThreadPoolExecutor(len(self.urls)) as pool:
                list(pool.map(lambda url: self._load(url, place), self.urls))
        finally:
            shutil.rmtree(place)

    def _load(self, url: str, place: Path) -> None:
        body = {"method": "reload_weights", "kwargs": {"weights_path": str(place)}}
        _post(f"{url}/collective_rpc", body, self.timeout)
        # Keys and values of the old weights must not answer for the new ones.
        if not json.loads(_post(f"{url}/reset_prefix_cache", {}, self.timeout)).get("success", True):
            raise RuntimeError(f"{url} did not empty its prefix cache: somebody else samples from it")


class NcclWeights:
    """Streams weights to servers started with --weight-transfer-config '{"backend": "nccl"}', through TRL's client."""

    def __init__(self, urls: Sequence[str], timeout: float) -> None:
        self.urls = urls
        self.timeout = timeout
        self.clients: list[Any] = []

    def send(self, weights: Weights, device: Any) -> None:
        """Raises ValueError unless the trainer's weights are on a CUDA device."""
        if device.type != "cuda":
            raise ValueError(f"weight_sync: nccl needs the trainer on a CUDA device, it is on {device}; take disk")
        if not self.clients:
            self.clients = [self._connect(url, GROUP_PORT + i, device) for i, url in enumerate(self.urls)]
        described = [(name, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)) for name, tensor in weights]
        for client in self.clients:
            client.update_named_params(described, iter(weights))
            client.reset_prefix_cache()

    def _connect(self, url: str, port: int, device: Any) -> Any:
        from trl.generation.vllm_client import VLLMClient

        client = VLLMClient(base_url=url, group_port=port, connection_timeout=min(self.timeout, 240.0))
        client.init_communicator(device=device)
        return client


def transport(way: WeightSync, urls: Sequence[str], folder: Path | None, timeout: float) -> Transport:
    """The transport `way`. Raises ValueError for another name, or for disk without a folder."""
    match way:
        case "disk" if folder is not None:
            return DiskWeights(urls, folder, timeout)
        case "disk":
            raise ValueError("weight_sync: disk needs weights, a folder that the servers see under the same path")
        case "nccl":
            return NcclWeights(urls, timeout)
        case _:
            raise ValueError(f"weight_sync: disk or nccl, not {way!r}")


def _post(url: str, body: dict[str, Any], timeout: float) -> str:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout) as response:
            answer: bytes = response.read()
            return answer.decode()
    except urllib.error.HTTPError as error:
        if error.code == 404:
            raise ValueError(f"{url} does not exist: start vLLM with VLLM_SERVER_DEV_MODE=1 to train with it") from None
        text = " ".join(error.read(500).decode(errors="replace").split())
        raise RuntimeError(f"{url} took no weights: {error.code} {text}") from None
    except OSError as error:
        raise RuntimeError(f"{url} took no weights: {error}") from None
