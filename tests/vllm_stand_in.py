"""What `vllm serve CHECKPOINT --port PORT` answers, with our own engine behind it: for tests where there is no vLLM.

Speaks the part of the protocol that stages/rollout/server_engine.py uses. `python tests/vllm_stand_in.py serve ...`
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=["serve"])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", nargs="+", required=True)
    parser.add_argument("--logprobs-mode", choices=["processed_logprobs"], required=True)
    arguments = parser.parse_args()

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from stages.rollout.engine import Sampling
    from stages.rollout.transformers_engine import TransformersEngine

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(arguments.checkpoint, dtype=torch.float32)
    engine = TransformersEngine(model, AutoTokenizer.from_pretrained(arguments.checkpoint), batch_tokens=1)
    lock = threading.Lock()

    def answer(body: dict[str, Any]) -> dict[str, Any]:
        assert body["model"] in arguments.served_model_name
        names = ("max_tokens", "temperature", "top_p", "top_k", "n", "seed")
        with lock:
            [group] = engine.generate([body["prompt"]], Sampling(**{name: body[name] for name in names}))
        return {
            "choices": [
                {
                    "index": at,
                    "text": done.text,
                    "token_ids": done.token_ids,
                    "finish_reason": "stop" if done.finished else "length",
                    "logprobs": {"token_logprobs": done.logprobs},
                }
                for at, done in enumerate(group)
            ]
        }

    class Handler(BaseHTTPRequestHandler):
        def reply(self, text: str) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def do_GET(self) -> None:
            self.reply("")

        def do_POST(self) -> None:
            self.reply(json.dumps(answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))))

    print(f"serving {arguments.checkpoint}", flush=True)
    ThreadingHTTPServer(("", arguments.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
