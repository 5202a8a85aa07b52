"""The client against small real servers on this machine: order, load, retries, refusals."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from stages.rollout.engine import Sampling, open_engine
from stages.rollout.transformers_engine import TransformersEngine
from tests.tiny_model import build_model, build_tokenizer, one_thread, save_checkpoint  # noqa: F401

PROMPTS = [[{"role": "user", "content": f"{i}+{i}="}] for i in range(6)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model"))


class Server:
    """Answers as vLLM does, with our own engine behind it; `failures` requests get a 503 first."""

    def __init__(self, failures: int = 0, code: int = 503):
        self.bodies: list[dict] = []
        self.left, self.code = failures, code
        self.engine, self.lock = TransformersEngine(build_model(), build_tokenizer(), batch_tokens=1), threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server.lock:
                    server.bodies.append(body)
                    failing, server.left = server.left > 0, server.left - 1
                    text = "no room\nnow" if failing else json.dumps(server.answer(body))
                self.send_response(server.code if failing else 200)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, body):
        if "prompt_logprobs" in body:
            [scores] = self.engine.score([body["prompt"]])
            entries = [None, *({str(t): {"logprob": s}} for t, s in zip(body["prompt"][1:], scores, strict=True))]
            return {"choices": [{"index": 0, "prompt_logprobs": entries}]}
        sampling = Sampling(**{name: body[name] for name in ("max_tokens", "temperature", "n", "seed")})
        [group] = self.engine.generate([body["prompt"]], sampling)
        choices = [
            {
                "index": k,
                "text": c.text,
                "token_ids": c.token_ids,
                "finish_reason": "stop" if c.finished else "length",
                "logprobs": {"token_logprobs": c.logprobs},
            }
            for k, c in enumerate(group)
        ]
        return {"choices": choices[::-1]}


@pytest.fixture
def serve():
    servers = []

    def start(**settings):
        servers.append(Server(**settings))
        return servers[-1]

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


def test_greedy_equals_the_engine_behind_and_prompts_take_turns(checkpoint, serve):
    first, second, done = serve(), serve(), []
    with open_engine(
        "vllm_server", checkpoint, urls=[first.url, second.url], model="tiny", progress=done.append
    ) as engine:
        sampling = Sampling(max_tokens=12, temperature=0)
        assert engine.generate(PROMPTS, sampling) == first.engine.generate(PROMPTS, sampling)
        assert engine.score([[3, 7, 20], [5, 4]]) == first.engine.score([[3, 7, 20], [5, 4]])
    assert sum(done) == 6
    assert len(first.bodies) == len(second.bodies) == 4
    assert {body["model"] for body in first.bodies} == {"tiny"}


def test_samples_come_in_order_with_a_seed_for_each_prompt(checkpoint, serve):
    server = serve()
    with open_engine("vllm_server", checkpoint, urls=[server.url]) as engine:
        groups = engine.generate(PROMPTS, Sampling(max_tokens=8, n=3, seed=2))
    assert len({body["seed"] for body in server.bodies}) == 6
    by_prompt = {tuple(body["prompt"]): body for body in server.bodies}
    for prompt, group in zip(PROMPTS, groups, strict=True):
        body = by_prompt[tuple(build_tokenizer().apply_chat_template(prompt, add_generation_prompt=True)["input_ids"])]
        sampling = Sampling(max_tokens=8, n=3, seed=body["seed"])
        assert group == server.engine.generate([body["prompt"]], sampling)[0]


def test_a_busy_server_is_asked_again_and_a_refusal_is_not(checkpoint, serve):
    busy, other = serve(failures=2), serve()
    with open_engine("vllm_server", checkpoint, urls=[busy.url, other.url], pause=0.01) as engine:
        assert len(engine.generate(PROMPTS, Sampling(max_tokens=2))) == 6
    down = serve(failures=100)
    with open_engine("vllm_server", checkpoint, urls=[down.url], pause=0.001) as engine:
        with pytest.raises(RuntimeError, match=f"sampling from {down.url[:-1]} failed: 503 no room now"):
            engine.generate(PROMPTS[:1], Sampling(max_tokens=2))
        assert len(down.bodies) == 4
    refusing = serve(failures=1, code=400)
    with open_engine("vllm_server", checkpoint, urls=[refusing.url]) as engine:
        with pytest.raises(RuntimeError, match="400 no room"):
            engine.generate(PROMPTS[:1], Sampling(max_tokens=2))
        assert len(refusing.bodies) == 1


def test_a_dead_address_and_missing_urls_are_named(checkpoint):
    with (
        open_engine("vllm_server", checkpoint, urls=["http://127.0.0.1:9"], pause=0.001) as engine,
        pytest.raises(RuntimeError, match=r"sampling from http://127.0.0.1:9 failed: .*refused"),
    ):
        engine.generate(PROMPTS[:1], Sampling(max_tokens=2))
    with pytest.raises(ValueError, match="needs engine_options"), open_engine("vllm_server", checkpoint):
        pass


def test_a_server_refuses_weights(checkpoint):
    with (
        open_engine("vllm_server", checkpoint, urls=["http://127.0.0.1:9"]) as engine,
        pytest.raises(ValueError, match="keeps its own weights"),
    ):
        engine.sync(build_model())
