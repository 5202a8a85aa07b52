"""Ways in which a configuration can be wrong: each breaks a sound world in one place."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from typing import Any

from data.template import CONVENTIONS
from tests.check_world import World, chain, problem

Fault = Callable[[World], Any]
TESTS = {"kind": "function", "entry_point": "f", "asserts": ["assert f(2) == 4"]}
ONE = '{"id": "a", "prompt": [{"role": "user", "content": "x"}], "domain": "math", "language": "en"}'
LEARNING = {"name": "pm", "stage": "preference_model", "init_from": "base", "data_from": "problems", "batch_size": 4}
SAMPLING = {"name": "keep", "stage": "rejection_sampling", "init_from": "rl", "data_from": "problems"}


def top(**keys: Any) -> Fault:
    """Keys of the run."""
    return lambda world: world.tree.update(keys)


def cold(**keys: Any) -> Fault:
    """Keys of the cold start."""
    return lambda world: world.step("cold_start", **keys)


def rl(**keys: Any) -> Fault:
    """Keys of the reinforcement step."""
    return lambda world: world.step("rl", **keys)


def more(step: dict[str, Any], **keys: Any) -> Fault:
    """A further step."""
    return lambda world: world.tree["steps"].append({**step, **keys})


def rows(name: str, *made: Any) -> Fault:
    """The rows of a file."""
    return lambda world: world.rows(name, made)


def model(**source: Any) -> Fault:
    """Where the base comes from."""
    return lambda world: world.tree["models"].update(base={"evaluate": False, **source})


def edit(file: str, **keys: Any) -> Fault:
    """Keys of a JSON file of the base; None takes one away."""

    def change(tree: dict[str, Any]) -> None:
        tree.update(keys)
        for key in [key for key, value in keys.items() if value is None]:
            del tree[key]

    return lambda world: world.edit(file, change)


def gone(*files: str) -> Fault:
    """Files of the base that are not there."""
    return lambda world: [(world.folder / "base" / file).unlink() for file in files]


def wrote(file: str, text: str | bytes) -> Fault:
    """A file beside the configuration."""

    def write(world: World) -> None:
        (world.folder / file).write_bytes(text.encode() if isinstance(text, str) else text)

    return write


def both(*faults: Fault) -> Fault:
    """One after the other."""
    return lambda world: [fault(world) for fault in faults]


def user(body: str, **keys: Any) -> Fault:
    """A reward of the user's, behind the verifier."""
    spec = {"path": "mine.py", "function": "mine", "gate": "correctness", **keys}
    source = f"def mine(prompts, completions, **columns):\n    {body}\n"
    return both(wrote("mine.py", source), rl(rewards=[{"name": "correctness"}, spec]))


def special_tags(world: World) -> None:
    """The tags of the convention as special tokens."""

    def change(tree: dict[str, Any]) -> None:
        for token in tree["added_tokens"]:
            token["special"] = True

    world.edit("tokenizer.json", change)


def made_elsewhere(world: World) -> None:
    """A base that another run made, in another convention."""
    from dataclasses import asdict

    from data.contract import model_contract

    record = {
        "name": "rl", "kind": "model", "fingerprint": "0" * 12, "recipe": {}, "parents": [], "seed": 0, "code": "",
        "started": "", "seconds": 1.0, "metrics": {}, "contract": asdict(model_contract(world.folder / "base", "zh")),
    }  # fmt: skip
    (world.folder / "base" / "record.json").write_text(json.dumps(record))


def character_student(world: World) -> None:
    """A student whose tokenizer knows few characters."""
    from tests.tiny_model import build_tokenizer

    student = world.folder / "student"
    shutil.copytree(world.folder / "base", student)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (student / file).unlink()
    build_tokenizer().save_pretrained(student)
    world.tree["models"]["student"] = {"path": "student", "evaluate": False}
    world.tree["steps"].append(
        {"name": "small", "stage": "distillation", "init_from": "student", "data_from": "chains", "max_length": 256}
    )
    (world.folder / "student" / "generation_config.json").unlink()
    config = json.loads((student / "config.json").read_text())
    (student / "config.json").write_text(json.dumps(config | {"eos_token_id": 0}))
    world.rows("chains", [chain(n, prompt=[said("20 加 3")]) for n in range(4)])


def said(text: str) -> dict[str, str]:
    """A user message."""
    return {"role": "user", "content": text}


def scorer(wire: str = "preference", reward: str = "preference", **config: Any) -> Fault:
    """A given model wired as preference or safety model."""

    def build(world: World) -> None:
        shutil.copytree(world.folder / "base", world.folder / "judge")
        file = world.folder / "judge" / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
        world.tree["models"]["judge"] = {"path": "judge", "evaluate": False}
        world.step("rl", stage="general_rl", rewards=[{"name": reward}], **{f"{wire}_from": "judge"})

    return build


def shards(world: World) -> None:
    """Weights in shards, one of which was not copied."""
    base = world.folder / "base"
    (base / "model.safetensors").rename(base / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = {"metadata": {"total_size": 1836032}, "weight_map": shards}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))


def program(solution: str) -> Fault:
    """Problems with tests and a reference program."""
    tested = [problem(n, answer=None, tests=TESTS, solution=solution) for n in range(2)]
    return both(rows("problems", *tested), rl(prompts_per_step=2))


def wrong_completion(world: World) -> None:
    """Programs in completions that do not pass the row's tests."""
    text = CONVENTIONS["think_answer"].render("Double it.", "def f(x):\n    return x")
    done = [{"role": "assistant", "content": text}]
    world.rows("problems", [problem(n, answer=None, tests=TESTS, completion=done) for n in range(4)])


def judged(*verdicts: Any) -> Fault:
    """Chains that people have judged before the cold start; without verdicts, are about to judge."""

    def change(world: World) -> None:
        more({"name": "judged", "stage": "review", "data_from": "chains", "reviewed": "said.jsonl"})(world)
        world.step("cold_start", data_from="judged")
        if verdicts:
            world.rows("said", verdicts)

    return change


CASES: Mapping[str, tuple[Fault, str]] = {
    "a verdict that is none": (
        judged({"id": "c0", "verdict": "keep"}, {"id": "c1", "verdict": "dorp"}),
        "verdicts: steps.judged: FOLDER/said.jsonl:2: unknown verdict 'dorp'; did you mean 'drop'?",
    ),
    "a correction in no convention": (
        judged({"id": "c0", "verdict": "correct", "completion": "<think>a</think>b"}),
        "verdicts: steps.judged: FOLDER/said.jsonl:1: the correction of 'c0' cannot be used: <answer> is missing",
    ),
    "unknown key": (
        top(sede=1),
        "config: FOLDER/world.yaml: unknown key 'sede'; did you mean 'seed'?",
    ),
    "wrong type": (
        cold(epochs="two"),
        (
            "config: FOLDER/world.yaml: steps.cold_start: epochs: input should be a valid number, unable to parse "
            "string as a number, got 'two'"
        ),
    ),
    "unknown stage": (
        cold(stage="cold_strat"),
        "config: FOLDER/world.yaml: steps.cold_start.stage: unknown stage 'cold_strat'; did you mean 'cold_start'?",
    ),
    "unknown convention": (
        top(convention="think_anser"),
        "config: FOLDER/world.yaml: convention: unknown convention 'think_anser'; did you mean 'think_answer'?",
    ),
    "unknown input": (
        rl(init_from="cold_stat"),
        "config: FOLDER/world.yaml: steps.rl.init_from: unknown name 'cold_stat'; did you mean 'cold_start'?",
    ),
    "steps in a circle": (
        cold(init_from="rl"),
        "config: FOLDER/world.yaml: steps: the inputs go in a circle: cold_start -> rl -> cold_start",
    ),
    "batch does not divide": (
        cold(launch={"processes": 3}),
        "config: FOLDER/world.yaml: steps.cold_start: batch_size = 4 does not divide by launch.processes = 3",
    ),
    "samples do not divide": (
        rl(updates_per_generation=3),
        (
            "config: FOLDER/world.yaml: steps.rl: prompts_per_step x num_generations = 8 does not divide by "
            "updates_per_generation = 3"
        ),
    ),
    "group of one": (
        rl(num_generations=1),
        "config: FOLDER/world.yaml: steps.rl: num_generations: input should be greater than or equal to 2, got 1",
    ),
    "revision is a branch": (
        model(hub="org/model", revision="main"),
        (
            "config: FOLDER/world.yaml: models.base: `revision` must be a commit of org/model (40 hex digits), got "
            "'main': an unpinned source has no identity"
        ),
    ),
    "server without a url": (
        more(SAMPLING, engine="vllm_server"),
        (
            "config: FOLDER/world.yaml: steps.keep: engine_options: the engine 'vllm_server' needs urls, such as "
            "[http://node:8000]"
        ),
    ),
    "unknown option of an engine": (
        more(SAMPLING, engine_options={"batch_token": 1}),
        (
            "config: FOLDER/world.yaml: steps.keep: engine_options: unknown key 'batch_token' of the engine "
            "'transformers'; did you mean 'batch_tokens'?"
        ),
    ),
    "least score of no reward": (
        more(SAMPLING, min_scores={"languge": 1}),
        "config: FOLDER/world.yaml: steps.keep: min_scores: no reward 'languge' in the mix; did you mean 'language'?",
    ),
    "lora with freeze": (
        cold(lora={}, freeze={"layers": 1}),
        (
            "config: FOLDER/world.yaml: steps.cold_start: freeze has no effect with lora, whose adapters are all that "
            "learns; leave one of them out"
        ),
    ),
    "data file missing": (
        top(
            data={
                "chains": {"source": "records", "path": "chain.jsonl"},
                "problems": {"source": "records", "path": "problems.jsonl"},
            }
        ),
        "data: data.chains: path: no file 'FOLDER/chain.jsonl' (looked for FOLDER/chain.jsonl)",
    ),
    "line is not JSON": (
        rows("problems", ONE, ONE, '{"id": '),
        "data: data.problems: FOLDER/problems.jsonl:3: not JSON (Expecting value at line 2, column 1)",
    ),
    "row without a column": (
        rows("problems", problem(1), {"id": "b", "domain": "math", "language": "en"}),
        "data: data.problems: FOLDER/problems.jsonl:2: the column 'prompt' is missing",
    ),
    "column of a wrong type": (
        rows("chains", chain(1), chain(2, answer=4)),
        "data: data.chains: FOLDER/chains.jsonl:2: column 'answer' must be str, got int",
    ),
    "empty file": (
        rows("chains"),
        "data: data.chains: no usable row (it is empty)",
    ),
    "dataset not pinned": (
        top(
            data={
                "chains": {"source": "records", "path": "chains.jsonl"},
                "problems": {"source": "gsm8k", "hub": "openai/gsm8k", "revision": "unpinned"},
            }
        ),
        (
            "data: data.problems: hub dataset openai/gsm8k is not pinned: set its revision to the commit that you "
            "trust (40 hex digits)"
        ),
    ),
    "model directory missing": (
        model(path="bse"),
        "models: models.base.path: there is no directory FOLDER/bse",
    ),
    "no config.json": (
        gone("config.json"),
        "models: models.base.path: FOLDER/base is not a checkpoint: it has no config.json",
    ),
    "config.json is not JSON": (
        wrote("base/config.json", "{"),
        (
            "models: models.base: FOLDER/base/config.json: not JSON (Expecting property name enclosed in double "
            "quotes: line 1 column 2 (char 1))"
        ),
    ),
    "no weights": (
        gone("model.safetensors"),
        "models: models.base: FOLDER/base has no weights (*.safetensors)",
    ),
    "weights cut short": (
        wrote("base/model.safetensors", b"\x10\x00\x00\x00\x00\x00\x00\x00{"),
        (
            "models: models.base.path: FOLDER/base/model.safetensors is damaged: its header is cut off, or it is no "
            "safetensors file"
        ),
    ),
    "shard missing": (
        shards,
        (
            "models: models.base.path: FOLDER/base/model-00002-of-00002.safetensors is missing, "
            "model.safetensors.index.json lists it"
        ),
    ),
    "unknown architecture": (
        edit("config.json", model_type="qwen2000"),
        "models: models.base: the installed transformers does not know the model_type 'qwen2000'",
    ),
    "revision not pinned": (
        model(hub="org/model", revision="unpinned"),
        (
            "models: models.base.revision: org/model is not pinned: set its revision to the commit that you trust (40 "
            "hex digits)"
        ),
    ),
    "scorer is no classifier": (
        scorer(),
        (
            "models: models.judge: it is wired as a preference model, and its config.json says Qwen2ForCausalLM; a "
            "preference model is a sequence classifier with one label"
        ),
    ),
    "scorer with three labels": (
        scorer(architectures=["Qwen2ForSequenceClassification"], id2label={"0": "a", "1": "b", "2": "c"}),
        "models: models.judge: it has 3 labels, a preference model has one",
    ),
    "safety model is no classifier": (
        scorer("safety", "safety_model"),
        (
            "models: models.judge: it is wired as a safety model, and its config.json says Qwen2ForCausalLM; a "
            "safety model is a sequence classifier that tells safe from unsafe"
        ),
    ),
    "safety model with one label": (
        scorer("safety", "safety_model", architectures=["Qwen2ForSequenceClassification"], id2label={"0": "score"}),
        "models: models.judge: it has one label, a safety model tells safe from unsafe",
    ),
    "no chat template": (
        gone("chat_template.jinja"),
        "tokenizers: models.base: FOLDER/base: the tokenizer has no chat template",
    ),
    "EOS is left to the default": (
        edit("tokenizer_config.json", eos_token=None),
        "tokenizers: models.base: FOLDER/base: the pad token must exist and differ from EOS (<|endoftext|>)",
    ),
    "pad is EOS": (
        edit("tokenizer_config.json", pad_token="<|im_end|>"),
        "tokenizers: models.base: FOLDER/base: the pad token must exist and differ from EOS (<|im_end|>)",
    ),
    "generation config ends elsewhere": (
        edit("generation_config.json", eos_token_id=1001),
        (
            "tokenizers: models.base: generation_config.json ends at '<|endoftext|>' (eos_token_id 1001), the "
            "tokenizer at '<|im_end|>' (1000); state both in eos_token_id"
        ),
    ),
    "tokenizer larger than the model": (
        edit("config.json", vocab_size=1000),
        "tokenizers: models.base: the tokenizer has 1011 tokens, the model embeds 1000",
    ),
    "tokenizer is not JSON": (
        wrote("base/tokenizer.json", "{"),
        (
            "models: models.base: FOLDER/base/tokenizer.json: not JSON (Expecting property name enclosed in double "
            "quotes: line 1 column 2 (char 1))"
        ),
    ),
    "made in another convention": (
        made_elsewhere,
        (
            "contracts: steps.cold_start: input init (base) was made under the convention 'zh', and this run uses "
            "'think_answer'"
        ),
    ),
    "chains in another convention": (
        rows("chains", *[chain(n, "zh") for n in range(4)]),
        (
            "convention: steps.cold_start.data_from: 4 of 4 completions do not follow the convention 'think_answer', "
            "the first is row 'c0'; it follows 'zh'"
        ),
    ),
    "chains in no convention": (
        rows("chains", *[chain(n, "none") for n in range(4)]),
        (
            "convention: steps.cold_start.data_from: 4 of 4 completions do not follow the convention 'think_answer', "
            "the first is row 'c0'; expected <think> </think> <answer> </answer>"
        ),
    ),
    "tags are special tokens": (
        special_tags,
        "template: models.base: the tag <think> is a special token, which rewards never see; add it with special=False",
    ),
    "template raises": (
        wrote("base/chat_template.jinja", "{{ raise_exception('no system role') }}"),
        "tokenizers: models.base: its chat template refuses a user's message: TemplateError: no system role",
    ),
    "template refuses a system message": (
        both(
            wrote(
                "base/chat_template.jinja",
                "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
                "{{ m.content }}{% endfor %}",
            ),
            rows("chains", chain(1, prompt=[{"role": "system", "content": "be brief"}, said("x")]), chain(2)),
        ),
        (
            "template: steps.cold_start: row 'c1': the chat template refuses its prompt: TemplateError: no system role "
            "(models.base)"
        ),
    ),
    "template hides the question": (
        wrote("base/chat_template.jinja", "hello"),
        "template: steps.cold_start: row 'c0': the chat template does not show its last user message (models.base)",
    ),
    "student's tokenizer loses text": (
        character_student,
        (
            "template: steps.small: row 'c0': its text changes in the tokenizer: '加 3' comes back as ' 3' "
            "(models.student)"
        ),
    ),
    "nothing to learn": (
        rows("chains", *[problem(n) for n in range(4)]),
        "labels: steps.cold_start.data_from: none of 4 rows has a completion to learn",
    ),
    "EOS inside a completion": (
        rows(
            "chains",
            chain(1),
            chain(
                2,
                completion=[
                    {"role": "assistant", "content": "<think>\na<|im_end|>b\n</think>\n<answer>\n1\n</answer>"}
                ],
            ),
        ),
        "labels: steps.cold_start: row 'c2': its completion contains '<|im_end|>', which ends it",
    ),
    "prefill that rewards miss": (
        top(prefill="<think>\nOkay,"),
        (
            "prefill: prefill: '<think>\\nOkay,' is not visible to rewards (they see ''), so every layout would count "
            "as wrong; use `prefill: true`, or end the text after <think>"
        ),
    ),
    "every chain too long": (
        cold(max_length=20),
        (
            "lengths: steps.cold_start.max_length: 6 of 6 rows (100%) are longer than 20 tokens and left out, the "
            "first is 'c0'; the longest has 39"
        ),
    ),
    "no pairs": (
        more(LEARNING),
        "lengths: steps.pm.data_from: none of 6 rows is a pair (columns chosen and rejected)",
    ),
    "no answer is called safe or unsafe": (
        more(LEARNING, stage="safety_model", data_from="chains"),
        "lengths: steps.pm.data_from: none of 6 rows says whether an answer is safe",
    ),
    "a label of safety that is none": (
        both(
            more(LEARNING, stage="safety_model", data_from="chains"),
            rows("chains", *(chain(number, safe="yes") for number in range(6))),
        ),
        "lengths: steps.pm.data_from: row 'c0': column 'safe' must be true or false, got 'yes'",
    ),
    "table of positions too short": (
        edit("config.json", max_position_embeddings=None, n_positions=30),
        "lengths: steps.cold_start: row 'c0' is longer than the 30 positions of the model; set max_length to 30",
    ),
    "prompts fill the positions": (
        edit("config.json", max_position_embeddings=16),
        "limits: steps.rl: 6 of 6 prompts alone fill the 16 positions of models.base, the first is that of row 'p0'",
    ),
    "no right answer fits": (
        rl(max_completion_tokens=8),
        (
            "limits: steps.rl.max_completion_tokens is 8, but the shortest right answer in the convention "
            "'think_answer' takes 12 tokens"
        ),
    ),
    "domain without rows": (
        more(
            {
                "name": "mix",
                "stage": "sft_mix",
                "init_from": "rl",
                "data_from": "chains",
                "phases": [{"name": "one", "weights": {"maths": 1}}],
            }
        ),
        "domains: steps.mix.phases.one.weights: no row of the domain 'maths'; did you mean 'math'?",
    ),
    "fewer prompts than a step takes": (
        rl(prompts_per_step=7),
        "prompts: steps.rl.prompts_per_step is 7, but there are only 6 prompts",
    ),
    "curriculum without difficulty": (
        rl(curriculum={}),
        "prompts: steps.rl.curriculum: none of the first 6 rows has a difficulty",
    ),
    "a tier without rows": (
        rl(kl_tiers=[{"domains": ["maths"], "beta": 0.1}]),
        "prompts: steps.rl.kl_tiers: no row belongs to 'maths'; domains of the rows: math",
    ),
    "golds that cannot be read": (
        rows("problems", *[problem(n, answer="\\frac{1}{") for n in range(4)]),
        "golds: steps.rl.data_from: none of 4 rows can be scored (unusable: an answer that cannot be read: 4)",
    ),
    "tests that cannot be read": (
        rows("problems", *[problem(n, tests={"kind": "functon"}) for n in range(4)]),
        "golds: steps.rl.data_from: none of 4 rows can be scored (unusable: tests that cannot be read: 4)",
    ),
    "neither answer nor tests": (
        rows("problems", *[problem(n, answer=None) for n in range(4)]),
        "golds: steps.rl.data_from: none of 4 rows can be scored (unusable: neither answer nor tests: 4)",
    ),
    "solution fails its tests": (
        program("def f(x):\n    return x"),
        (
            "solutions: data.problems: none of 2 solutions passes its own tests; unusable: p0: its own solution does "
            "not pass its tests (wrong)"
        ),
    ),
    "completion fails the tests": (
        wrong_completion,
        "rewards: steps.rl: rewards: 'correctness' gives 0 to the gold answer to row 'p0' (0 of 1 passed: wrong)",
    ),
    "unknown reward": (
        rl(rewards=[{"name": "acuracy"}]),
        "rewards: steps.rl: rewards[0]: unknown reward 'acuracy'; did you mean 'accuracy'?",
    ),
    "weight is no number": (
        rl(rewards=[{"name": "accuracy", "weight": "heavy"}]),
        "rewards: steps.rl: rewards[0]: weight must be a number, got 'heavy'",
    ),
    "unknown parameter": (
        rl(rewards=[{"name": "language", "min_word": 3}]),
        "rewards: steps.rl: rewards[0]: language has no parameter 'min_word'; did you mean 'min_words'?",
    ),
    "gate on itself": (
        rl(rewards=[{"name": "accuracy"}, {"name": "format", "gate": "format"}]),
        "rewards: steps.rl: rewards: format: gate 'format' is none of the other rewards (accuracy, format)",
    ),
    "gate on nothing": (
        rl(rewards=[{"name": "format", "gate": "acuracy"}]),
        "rewards: steps.rl: rewards: format: gate 'acuracy' is none of the other rewards (format)",
    ),
    "reward twice": (
        rl(rewards=[{"name": "format"}, {"name": "format"}]),
        "rewards: steps.rl: rewards: 'format' occurs twice; tell the two apart with `label`",
    ),
    "preference without a model": (
        rl(rewards=[{"name": "preference"}]),
        "rewards: steps.rl: rewards: the reward 'preference' needs a model; wire one with preference_from",
    ),
    "reward file missing": (
        rl(rewards=[{"path": "mine.py", "function": "mine"}]),
        "rewards: steps.rl: rewards[0]: no such file: FOLDER/mine.py",
    ),
    "reward file breaks": (
        both(wrote("mine.py", "1 / 0"), rl(rewards=[{"path": "mine.py", "function": "mine"}])),
        "rewards: steps.rl: rewards[0]: FOLDER/mine.py fails at import: ZeroDivisionError: division by zero",
    ),
    "reward function missing": (
        user("return [1.0]", function="mein"),
        "rewards: steps.rl: rewards[1]: FOLDER/mine.py has no function 'mein'; did you mean 'mine'?",
    ),
    "reward raises": (
        user("return [1 / len(c[0]['content']) for c in completions]"),
        (
            "rewards: steps.rl: rewards: 'mine' breaks (reward 'mine' failed at FOLDER/mine.py:2: ZeroDivisionError: "
            "division by zero) on an empty completion"
        ),
    ),
    "reward of a wrong length": (
        user("return [1.0]"),
        (
            "rewards: steps.rl: rewards: 'mine' breaks (reward 'mine' returned 1 scores for 6 completions) on the "
            "gold answer"
        ),
    ),
    "reward is not a number": (
        user("return [float('nan')] * len(completions)"),
        (
            "rewards: steps.rl: rewards: 'mine' has no score for the gold answer to row 'p0': exception (the reward "
            "returned nan)"
        ),
    ),
    "reward is text": (
        user("return ['good'] * len(completions)"),
        (
            "rewards: steps.rl: rewards: 'mine' breaks (reward 'mine' returned 'good', which is neither a number nor "
            "None) on the gold answer"
        ),
    ),
    "reward returns nothing": (
        user("return None"),
        (
            "rewards: steps.rl: rewards: 'mine' breaks (reward 'mine' returned None for 6 completions, not a list) on "
            "the gold answer"
        ),
    ),
    "unknown argument of TRL": (
        cold(trl={"packin": True}),
        "trl: steps.cold_start: trl.packin is no argument of SFTConfig; did you mean 'packing'?",
    ),
    "argument that is the pipeline's": (
        rl(trl={"save_strategy": "no"}),
        "trl: steps.rl: trl.save_strategy is set by the pipeline; did you mean 'eval_strategy'?",
    ),
    "argument that contradicts early stopping": (
        cold(early_stopping={}, trl={"eval_strategy": "no"}),
        "trl: steps.cold_start: trl.eval_strategy contradicts early_stopping; leave one of them out",
    ),
    "pattern that freezes nothing": (
        cold(freeze={"names": ["decoder.block"]}),
        "parameters: steps.cold_start: freeze.names: no parameter matches 'decoder.block'",
    ),
    "everything is frozen": (
        rl(freeze={"names": ["."]}),
        "parameters: steps.rl: freeze: every parameter of the model is frozen, nothing is left to learn",
    ),
    "rates for what does not exist": (
        rl(layer_rates={"groups": [{"names": "decoder.block", "rate": 1e-5}]}),
        "parameters: steps.rl: layer_rates.groups: no parameter that learns matches 'decoder.block'",
    ),
    "rates for what adapters hold still": (
        cold(lora={"rank": 2}, layer_rates={"groups": [{"names": "embed_tokens", "rate": 1e-5}]}),
        "parameters: steps.cold_start: layer_rates.groups: no parameter that learns matches 'embed_tokens'",
    ),
    "adapters for modules that do not exist": (
        cold(lora={"rank": 2, "target_modules": ["c_attn"]}),
        (
            "parameters: steps.cold_start: lora.target_modules: the model has no module 'c_attn'; known: down_proj, "
            "embed_tokens, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj"
        ),
    ),
    "adapters that cannot be merged into a shared model": (
        both(cold(lora={"dora": True}), top(launch={"accelerate_config": "fsdp2"})),
        (
            "launch: steps.cold_start: lora.dora cannot be merged into a model that is shared out (FSDP2); train on "
            "copies, or with lora"
        ),
    ),
    "accelerate config missing": (
        top(launch={"accelerate_config": "multi.yaml"}),
        "launch: launch.accelerate_config: there is no file FOLDER/multi.yaml",
    ),
    "accelerate config is not YAML": (
        both(wrote("multi.yaml", "a: [1,\nb: 2\n"), top(launch={"accelerate_config": "multi.yaml"})),
        (
            "launch: launch.accelerate_config: FOLDER/multi.yaml:3: not YAML (expected ',' or ']', but "
            "got '<stream end>')"
        ),
    ),
    "DeepSpeed file is not JSON": (
        both(wrote("zero.json", '{\n"a": }'), top(launch={"deepspeed": "zero.json"})),
        "launch: launch.deepspeed: FOLDER/zero.json:2: not JSON (Expecting value)",
    ),
    "accelerate config is not text": (
        both(wrote("zero.yaml", b"\xff"), top(launch={"accelerate_config": "zero.yaml"})),
        "launch: launch.accelerate_config: FOLDER/zero.yaml: not YAML (not UTF-8)",
    ),
    "DeepSpeed file holds a list": (
        both(wrote("zero.json", "[1]"), top(launch={"deepspeed": "zero.json"})),
        "launch: launch.deepspeed: FOLDER/zero.json: expected keys and values at the top level",
    ),
    "FlashAttention not installed": (
        rl(attention="flash_attention_2"),
        (
            "launch: steps.rl.attention: flash_attention_2 needs the package flash-attn; pip install flash-attn, or "
            "attention: sdpa"
        ),
    ),
    "engine not installed": (
        more(SAMPLING, engine="vllm"),
        (
            "engines: steps.keep.engine: the engine 'vllm' cannot be had: vllm is not installed; pip install "
            "'r1-pipeline[vllm]'"
        ),
    ),
    "server does not answer": (
        more(SAMPLING, engine="vllm_server", engine_options={"urls": ["http://127.0.0.1:9"]}),
        (
            "engines: steps.keep.engine_options.urls: http://127.0.0.1:9 does not answer /health within 2 s ([Errno "
            "111] Connection refused)"
        ),
    ),
    "judge does not answer": (
        rl(rewards=[{"name": "accuracy"}, {"name": "judge", "url": "http://127.0.0.1:9/v1", "model": "m"}]),
        "engines: steps.rl: rewards: judge: http://127.0.0.1:9/v1 cannot be reached ([Errno 111] Connection refused)",
    ),
}
"""What is wrong: how to get there, and what the user reads, "check: detail". FOLDER is where the world lies."""
