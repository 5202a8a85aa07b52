"""Adapters for questions with one right answer: mathematics, science, logic."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any

from data.adapters import At, Unusable, field, gold, lay_out, listed, text, user
from data.records import Row

_CALCULATION = re.compile(r"<<[^<>]*>>")


def gsm8k(value: Mapping[str, Any], at: At) -> Row:
    """GSM8K (arXiv 2110.14168): the answer follows `####`; `<<...>>` are calculator notes, not text."""
    solution, mark, answer = text(value, at, "answer").rpartition("####")
    answer = answer.strip().replace(",", "")
    if not mark or not answer:
        raise Unusable("no answer")
    row: Row = {"prompt": user(text(value, at, "question")), "answer": answer, "domain": "math"}
    if at.solutions:
        row["completion"] = lay_out(at, _CALCULATION.sub("", solution), answer, exact=True)
    if at.calculations:
        row["calculations"] = value["answer"]
    return row


def math(value: Mapping[str, Any], at: At) -> Row:
    """MATH (arXiv 2103.03874) and its like: `problem`, `answer` or a boxed `solution`, `level` or `difficulty`."""
    answer = gold(value, at, "answer") if "answer" in value else last_boxed(text(value, at, "solution", "answer"))
    if answer is None or not answer.strip():
        raise Unusable("no answer")
    row: Row = {"prompt": user(text(value, at, "problem", "question")), "answer": answer, "domain": "math"}
    level = value.get("difficulty", value.get("level"))
    if isinstance(level, str):
        digits = re.search(r"\d+", level)
        level = int(digits.group()) if digits else None
    if level is not None:
        row["difficulty"] = level
    if value.get("type") is not None:
        row["topic"] = value["type"]
    if at.solutions:
        row["completion"] = lay_out(at, text(value, at, "solution"), answer, exact=True)
    return row


def last_boxed(solution: str) -> str | None:
    """Content of the last `\\boxed{...}` with its braces balanced; None where there is none."""
    start = solution.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 1, start + len("\\boxed{")
    for position in range(begin, len(solution)):
        depth += {"{": 1, "}": -1}.get(solution[position], 0)
        if depth == 0:
            return solution[begin:position].strip()
    return None


def svamp(value: Mapping[str, Any], at: At) -> Row:
    """SVAMP (arXiv 2103.07191): a body, then the question."""
    body = text(value, at, "Body").strip()
    joined = f"{body if body.endswith(('.', '?', '!')) else body + '.'} {text(value, at, 'Question').strip()}"
    return {"prompt": user(joined), "answer": gold(value, at, "Answer"), "domain": "math"}


def cmath(value: Mapping[str, Any], at: At) -> Row:
    """CMATH (arXiv 2306.16636), Chinese primary-school problems by grade, and its distractor set without grades."""
    row: Row = {"prompt": user(text(value, at, "input")), "answer": gold(value, at, "golden"), "domain": "math"}
    row["language"] = "zh"
    if value.get("grade") is not None:
        row["difficulty"] = value["grade"]
    return row


def gpqa(value: Mapping[str, Any], at: At) -> Row:
    """GPQA (arXiv 2311.12022): four choices, in an order drawn from the seed and the row; the answer is a letter."""
    right = text(value, at, "Correct Answer").strip()
    choices = [right, *(text(value, at, f"Incorrect Answer {n}").strip() for n in (1, 2, 3))]
    if len(set(choices)) < 4:
        raise Unusable("two choices are the same")
    random.Random(f"{at.seed}/{at.name}").shuffle(choices)
    lines = [f"{letter}. {choice}" for letter, choice in zip("ABCD", choices, strict=True)]
    question = text(value, at, "Question").strip()
    row: Row = {
        "prompt": user("\n".join([question, "", *lines, "", "Answer with the letter of the right choice."])),
        "answer": "ABCD"[choices.index(right)],
        "domain": "science",
    }
    if at.solutions:
        row["completion"] = lay_out(at, text(value, at, "Explanation"), row["answer"], exact=True)
    return row


def kk_logic(value: Mapping[str, Any], at: At) -> Row:
    """Knights and knaves as in Logic-RL (arXiv 2502.14768); difficulty is the number of people."""
    names = listed(value, at, "names")
    answer = text(value, at, "solution_text_format").strip()
    example = "\n".join(f"({n}) {name} is a ..." for n, name in enumerate(names, start=1))
    ask = f"Answer with one line for each person, a knight or a knave:\n{example}"
    row: Row = {
        "prompt": user(f"{text(value, at, 'quiz').strip()}\n\n{ask}"),
        "answer": answer,
        "domain": "logic",
        "difficulty": len(names),
    }
    if at.solutions:
        steps = [text(value, at, "cot_head"), *listed(value, at, "cot_repeat_steps"), text(value, at, "cot_foot")]
        row["completion"] = lay_out(at, "\n".join(map(str, steps)), answer)
    return row


def prompt_answer(value: Mapping[str, Any], at: At) -> Row:
    """Any set with a question and a gold answer; with `solutions: true`, its column `reasoning` makes completions."""
    row: Row = {"prompt": user(text(value, at, "prompt")), "answer": gold(value, at, "answer")}
    if at.solutions:
        row["completion"] = lay_out(at, text(value, at, "reasoning"), row["answer"], exact=True)
    if value.get("difficulty") is not None:
        row["difficulty"] = field(value, at, "difficulty")
    return row
