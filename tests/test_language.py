"""Language consistency on real and mixed texts."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.language import LANGUAGES, Language, detect
from rewards.reward import Sample

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


def score(text: str, language: str, min_words: int = 1, **parameters: object) -> float | None:
    made = Language(min_words=min_words, **parameters)  # type: ignore[arg-type]
    return made(Sample(prompt="", completion=f"<think>{text}</think><answer>x</answer>", language=language))


def texts(name: str) -> tuple[list[str], str]:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"real data not found: {path}")
    content = path.read_text(encoding="utf-8")
    if name.startswith("gsm8k"):
        return [json.loads(line)["answer"] for line in content.splitlines()], "en"
    if name.startswith("math"):
        return [row["problem"] for row in json.loads(content)], "en"
    return [str(json.loads(line)["input"]) for line in content.splitlines()], "zh"


@pytest.mark.parametrize("name", ["gsm8k/train.jsonl", "math_train/math.json", "cmath/cmath_dev.jsonl"])
def test_real_texts_are_in_their_language(name: str) -> None:
    found, language = texts(name)
    scores = [score(text, language) for text in found]
    evident = [s for s in scores if s]
    assert len(evident) >= 0.99 * len(scores)
    assert sum(evident) / len(evident) >= 0.99
    assert sum(detect(text) == language for text in found) >= 0.99 * len(found)


@pytest.mark.parametrize("share", [0.1, 0.3])
def test_switching_inside_sentences_is_seen(share: float) -> None:
    rng = random.Random(0)

    def switched(text: str) -> str:
        chinese = ("因此", "我们", "计算", "结果", "所以")
        return re.sub(r"\b[a-z]{2,}\b", lambda m: rng.choice(chinese) if rng.random() < share else m[0], text)

    found = texts("gsm8k/train.jsonl")[0][:500]
    lost = [1.0 - (score(switched(text), "en") or 0.0) for text in found]
    assert sum(lost) / len(lost) == pytest.approx(share, rel=0.3)


@pytest.mark.parametrize(
    "formulas",
    [
        "$x^2 + \\sin y$",
        "\\[ \\begin{aligned} abc &= def \\end{aligned} \\]",
        "```python\ndef find(name):\n    return name\n```",
        "\\frac{ab}{cd}",
        "`some_code`",
        "https://example.org/some/long/path",
        "math.sqrt(number)",
    ],
)
def test_formulas_and_code_are_not_punished(formulas: str) -> None:
    assert score(f"我们先计算面积，然后求和。{formulas} 所以结果是五。", "zh") == 1.0


def test_what_is_said_inside_a_formula_counts() -> None:
    assert score("$x = 5 \\text{ because we add them}$ 所以", "zh") < 0.5  # type: ignore[operator]
    assert score("$x = 5 \\text{因为相加}$ 所以", "zh") == 1.0


def test_a_chain_of_bare_formulas_is_no_free_win() -> None:
    assert score("12+7=19. 3+4=7.", "en") == 0.0
    assert score("12+7=19. 3+4=7.", "zh", min_words=0) == 0.0
    assert score("We add.", "en", min_words=20) == 0.0
    assert score("We add.", "en", min_words=2) == 1.0


def test_the_reasoning_is_what_counts() -> None:
    reward = Language(min_words=1)
    zh = "<推理过程>我们把它们相加</推理过程><摘要>The answer is here</摘要>"
    assert reward(Sample(prompt="", completion=zh, language="zh", convention="zh")) == 1.0
    assert reward(Sample(prompt="", completion="We add them", language="en")) == 0.0
    assert reward(Sample(prompt="", completion="We add them", language="en", convention="none")) == 1.0
    assert reward(Sample(prompt="", completion="<think>nous ajoutons", language="fr")) is None


def test_kana_and_hangul_are_not_chinese() -> None:
    assert score("の計算をします", "zh") < 0.7  # type: ignore[operator]
    assert score("の計算をします", "ja") == 1.0
    assert score("우리는 더합니다", "ko") == 1.0
    assert detect("これは足し算の問題です") == "ja"
    assert detect("우리는 더합니다") == "ko"
    assert detect("Мы складываем") == "ru"
    assert detect("1 + 1") == "en"


def test_technical_words_may_be_allowed() -> None:
    assert score("我们用 Python 计算", "zh") == 1.0
    assert score("我们用 Julia 计算", "zh") < 1.0  # type: ignore[operator]
    assert score("我们用 Julia 计算", "zh", allow=("julia",)) == 1.0


@given(st.text(max_size=500), st.sampled_from(LANGUAGES))
def test_no_text_breaks_it(text: str, language: str) -> None:
    made = score(text, language)
    assert made is not None
    assert 0.0 <= made <= 1.0
    assert detect(text) in LANGUAGES
