"""Weights on their way into servers: what is sent, what is refused, and a server that keeps its old ones."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from stages.rollout.canary import Canary, SamplerMismatch
from stages.rollout.engine import open_engine
from stages.rollout.server_weights import DiskWeights, transport
from tests.test_server_engine import Server, checkpoint  # noqa: F401
from tests.tiny_model import build_model, one_thread  # noqa: F401

CANARY = [[3, 17, 20, 4, 9, 30], [12, 12, 5]]


class Trainee(Server):
    """A server with the development endpoints; `deaf` ones say yes and load nothing, `busy` ones keep their cache."""

    def __init__(self, deaf: bool = False, busy: bool = False, **settings):
        super().__init__(**settings)
        self.deaf, self.busy = deaf, busy

    def answer(self, body):
        if body.get("method") == "reload_weights":
            weights = load_file(f"{body['kwargs']['weights_path']}/model.safetensors")
            if not self.deaf:
                self.engine.model.load_state_dict(weights)
            return {"results": [None]}
        return super().answer(body) if body else {"success": not self.busy}


@pytest.fixture
def serve():
    servers = []

    def start(**settings):
        servers.append(Trainee(**settings))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


@pytest.fixture
def opened(checkpoint, tmp_path):  # noqa: F811
    def open_on(*servers, **options):
        urls = [server.url for server in servers]
        return open_engine(
            "vllm_server",
            checkpoint,
            urls=urls,
            weight_sync="disk",
            weights=tmp_path / "weights",
            pause=0.001,
            **options,
        )

    return open_on


def test_every_server_gets_every_weight_and_the_folder_is_left_empty(serve, opened, tmp_path):
    first, second = serve(), serve()
    with opened(first, second) as engine:
        canary = Canary(CANARY)
        for seed in (1, 2):
            model = build_model(seed=seed)
            engine.sync(model)
            assert canary.check(engine, model, f"step {seed}") < 1e-6
            for server in (first, second):
                held = server.engine.model.state_dict()
                assert all(torch.equal(held[name], tensor) for name, tensor in model.state_dict().items())
    assert not list((tmp_path / "weights").iterdir())


def test_one_stale_server_of_two_is_named(serve, opened):
    fresh, stale = serve(), serve(deaf=True)
    model = build_model()
    with opened(fresh, stale) as engine:
        canary = Canary(CANARY)
        canary.check(engine, model, "step 0")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.001)
        engine.sync(model)
        with pytest.raises(SamplerMismatch) as caught:
            canary.check(engine, model, "step 1")
    assert f"step 1: the sampler (vLLM at {stale.url[:-1]}) still holds the weights of the last" in str(caught.value)
    assert "the trainer (Qwen2ForCausalLM)" in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"failures": 1, "code": 404}, "collective_rpc does not exist: start vLLM with VLLM_SERVER_DEV_MODE=1"),
        ({"failures": 1, "code": 500}, "collective_rpc took no weights: 500 no room now"),
        ({"busy": True}, "did not empty its prefix cache"),
    ],
)
def test_a_server_that_takes_no_weights_is_named_with_the_reason(serve, opened, tmp_path, settings, message):
    server = serve(**settings)
    with opened(server) as engine, pytest.raises((ValueError, RuntimeError)) as caught:
        engine.sync(build_model())
    assert message in str(caught.value)
    assert server.url[:-1] in str(caught.value)
    assert not list((tmp_path / "weights").iterdir())


def test_a_dead_server_is_named(opened):
    class Dead:
        url = "http://127.0.0.1:9"

    with (
        opened(Dead) as engine,
        pytest.raises(RuntimeError, match=r"127.0.0.1:9/collective_rpc took no weights: .*refused"),
    ):
        engine.sync(build_model())


def test_nccl_needs_a_gpu_and_other_ways_are_refused(checkpoint, tmp_path):  # noqa: F811
    with (
        open_engine("vllm_server", checkpoint, urls=["http://127.0.0.1:9"], weight_sync="nccl") as engine,
        pytest.raises(ValueError, match="nccl needs the trainer on a CUDA device, it is on cpu; take disk"),
    ):
        engine.sync(build_model())
    with pytest.raises(ValueError, match="disk needs weights, a folder"):
        transport("disk", ["http://a"], None, 1.0)
    with pytest.raises(ValueError, match="disk or nccl, not 'fax'"):
        transport("fax", ["http://a"], tmp_path, 1.0)
    assert isinstance(transport("disk", ["http://a"], tmp_path, 1.0), DiskWeights)
