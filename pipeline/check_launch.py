"""Checks of what a step is started with: launch files, processes, TRL's arguments, engines and where they listen."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from pipeline import machine
from pipeline.adapters import refused
from pipeline.check_findings import Finding, fail, fine, warn
from pipeline.check_subject import Subject
from pipeline.launch_files import resolve
from pipeline.step import Node
from stages.training.options import ReinforcementConfig
from stages.training.truncation import truncation_warning

SECONDS = 2.0
"""How long a server may take to say that it is there."""


def launch(subject: Subject) -> Iterator[Finding]:
    """Files of accelerate and DeepSpeed can be read; processes, precision and attention suit this machine."""
    said = []
    for node in subject.steps:
        where = f"{subject.where(node)}.launch" if node.launch != subject.config.launch else "launch"
        for key, file in node.launch.files.items():
            yield from _file(f"{where}.{key}", resolve(key, file, Path(subject.config.base_dir)))
        if (node.launch.deepspeed or node.launch.zero) and (fault := machine.version_fault("deepspeed")):
            yield fail(f"{where}.{'zero' if node.launch.zero else 'deepspeed'}: {fault}")
        with suppress(ValueError):  # a file that cannot be read, as said above
            for why in refused(node, Path(subject.config.base_dir)):
                yield fail(f"{subject.where(node)}: {why}")
        yield from _fits(subject, node, where)
        if node.launch.processes > 1:
            said.append(f"{subject.where(node)} {node.launch.processes} processes")
    yield fine(", ".join(said) or "one process a step")


def _file(where: str, file: Path) -> Iterator[Finding]:
    try:
        text = file.read_text(encoding="utf-8")
        tree = json.loads(text) if file.suffix == ".json" else yaml.safe_load(text)
    except OSError:
        yield fail(f"{where}: there is no file {file}")
    except json.JSONDecodeError as error:
        yield fail(f"{where}: {file}:{error.lineno}: not JSON ({error.msg})")
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        yield fail(f"{where}: {file}{line}: not YAML ({getattr(error, 'problem', None) or 'not UTF-8'})")
    else:
        if not isinstance(tree, dict):
            yield fail(f"{where}: {file}: expected keys and values at the top level")


def _fits(subject: Subject, node: Node, where: str) -> Iterator[Finding]:
    cards = machine.gpus()
    processes = node.launch.processes // node.launch.machines
    if cards and processes > len(cards):
        yield fail(f"{where}.processes is {processes}, and this machine has {len(cards)} GPUs")
    if node.launch.mixed_precision == "fp16" and not cards:
        yield warn(f"{where}.mixed_precision: fp16 needs a GPU, and none is seen here")
    if node.launch.mixed_precision == "bf16" and any(card.capability < 8 for card in cards):
        yield warn(f"{where}.mixed_precision: {cards[0].name} has no bf16; fp16 is what it computes fast")
    if getattr(node.config, "attention", "") == "flash_attention_2" and machine.installed("flash-attn") is None:
        yield fail(
            f"{subject.where(node)}.attention: flash_attention_2 needs the package flash-attn; "
            "pip install flash-attn, or attention: sdpa"
        )


def trl(subject: Subject) -> Iterator[Finding]:
    """Names under `trl:` are arguments of TRL's trainer."""
    passed = 0
    for node in subject.steps:
        given = getattr(node.config, "trl", ())
        if node.stage.preflight is not None and given:
            try:
                node.stage.preflight(node.config)
            except ValueError as error:
                yield fail(f"{subject.where(node)}: {error}")
            passed += len(given)
    yield fine(f"{passed} arguments are passed on to TRL")


def engines(subject: Subject) -> Iterator[Finding]:
    """The engine of a step is installed and draws from the whole policy; servers and judges answer in two seconds."""
    said: dict[str, str] = {}
    for node in subject.steps:
        if isinstance(node.config, ReinforcementConfig) and (cut := truncation_warning(node.config)):
            yield warn(f"{subject.where(node)}: {cut}")
        for key, engine, options in _engines(node):
            where = f"{subject.where(node)}.{key}engine"
            if engine == "vllm" and (fault := machine.version_fault("vllm")):
                yield fail(f"{where}: the engine 'vllm' cannot be had: {fault}")
            for url in options.get("urls", ()) if engine == "vllm_server" else ():
                if fault := _silent(f"{url.rstrip('/')}/health"):
                    yield fail(f"{where}_options.urls: {url} does not answer /health within {SECONDS:g} s ({fault})")
            said[engine] = engine
        for spec in node.stage.mix(node.config, node.wired) if node.stage.mix else ():
            if spec.get("name") == "judge" and (fault := _closed(str(spec.get("url", "")))):
                yield fail(f"{subject.where(node)}: rewards: judge: {spec.get('url')} cannot be reached ({fault})")
    yield fine(", ".join(said) or "nothing is sampled")


def _engines(node: Node) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(prefix of the key, engine, its options) of every sampler of a step that states one."""
    for prefix, config in (("", node.config), ("teacher.", getattr(node.config, "teacher", None))):
        if prefix and "teacher" not in node.wired:
            continue
        if isinstance(engine := getattr(config, "engine", None), str):
            yield prefix, engine, dict(getattr(config, "engine_options", {}))


def _silent(url: str) -> str | None:
    """Why a server does not say that it is well."""
    try:
        with urllib.request.urlopen(url, timeout=SECONDS):
            return None
    except urllib.error.HTTPError as error:
        return f"HTTP {error.code}"
    except (OSError, ValueError) as error:
        return str(getattr(error, "reason", error))


def _closed(url: str) -> str | None:
    """Why no connection can be made to the host of `url`; None too for a url that the reward itself refuses."""
    parts = urllib.parse.urlsplit(url)
    if parts.hostname is None:
        return None
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((parts.hostname, port), SECONDS).close()
    except (OSError, ValueError) as error:
        return str(error)
    return None
