"""Problems in finance: exchange, percentages, discount, profit, simple and compound interest, instalments."""

from __future__ import annotations

from data.applied.sheet import hundredth, kind, state, tenth, then
from data.tiny.problems import Kind, Operands
from data.tiny.scribe import Scribe, Text, add, divide, multiply, subtract

EXCHANGE: tuple[Text, ...] = (
    (
        "One dollar buys {b} yuan. How many yuan do {a} dollars buy?",
        "1美元换{b}元人民币。{a}美元换多少元？",
    ),
    ("The rate is {b} yuan a dollar. Change {a} dollars to yuan.", "汇率是1美元兑{b}元。把{a}美元换成人民币是多少元？"),
)
PERCENTAGE: tuple[Text, ...] = (
    ("What is {b}% of {a} dollars?", "{a}元的{b}%是多少元？"),
    (
        "A bank takes a fee of {b}% on {a} dollars. How many dollars is the fee?",
        "银行对{a}元收{b}%的手续费。手续费是多少元？",
    ),
)
DISCOUNT: tuple[Text, ...] = (
    (
        "A coat costs {a} dollars and is sold at {b}% off. What is the price now?",
        "大衣原价{a}元，降价{b}%。现价多少元？",
    ),
)
PROFIT: tuple[Text, ...] = (
    (
        "A share is bought at {b} dollars and sold at {a}. What is the profit on {c} shares?",
        "股票每股{b}元买入，{a}元卖出。{c}股赚多少元？",
    ),
)
SIMPLE: tuple[Text, ...] = (
    (
        "{a} dollars earn {b}% simple interest a year. What is the interest after {c} years?",
        "本金{a}元，年利率{b}%，按单利算。{c}年的利息是多少元？",
    ),
)
COMPOUND: tuple[Text, ...] = (
    (
        "{a} dollars earn {b}% interest a year, compounded yearly. How many dollars are there after 2 years?",
        "本金{a}元，年利率{b}%，按年复利。2年后共有多少元？",
    ),
)
INSTALMENT: tuple[Text, ...] = (
    (
        "A loan of {a} dollars is paid back in {b} equal parts. How much is one?",
        "贷款{a}元，分{b}期等额还清。每期多少元？",
    ),
)


def _exchange(operands: Operands, scribe: Scribe) -> str:
    a, b = operands
    state(scribe, ("Amount times rate", "金额乘汇率"), f"{a}*{b}")
    return str(multiply(scribe, a, b))


def _percentage(operands: Operands, scribe: Scribe) -> str:
    a, b = operands
    part = hundredth(scribe, a)
    then(scribe, f"{part}*{b}")
    return str(multiply(scribe, part, b))


def _discount(operands: Operands, scribe: Scribe) -> str:
    a, b = operands
    part = hundredth(scribe, a)
    then(scribe, f"{part}*{b}")
    off = multiply(scribe, part, b)
    then(scribe, f"{a}-{off}")
    return str(subtract(scribe, a, off))


def _profit(operands: Operands, scribe: Scribe) -> str:
    a, b, c = operands
    state(scribe, ("Profit is sale minus cost", "利润等于卖价减买价"), f"{a}-{b}")
    gain = subtract(scribe, a, b)
    then(scribe, f"{gain}*{c}")
    return str(multiply(scribe, gain, c))


def _simple(operands: Operands, scribe: Scribe) -> str:
    a, b, c = operands
    part = hundredth(scribe, a)
    then(scribe, f"{part}*{b}")
    year = multiply(scribe, part, b)
    then(scribe, f"{year}*{c}")
    return str(multiply(scribe, year, c))


def _compound(operands: Operands, scribe: Scribe) -> str:
    amount, rate = operands
    for _ in range(2):
        part = tenth(scribe, amount)
        then(scribe, f"{part}*{rate // 10}")
        interest = multiply(scribe, part, rate // 10)
        then(scribe, f"{amount}+{interest}")
        amount = add(scribe, amount, interest)
    return str(amount)


def _instalment(operands: Operands, scribe: Scribe) -> str:
    a, b = operands
    state(scribe, ("Loan over number of parts", "贷款除以期数"), f"{a}/{b}")
    return str(divide(scribe, a, b))


KINDS: tuple[Kind, ...] = (
    kind("exchange", "finance", 1, ((11, 99), (2, 9)), EXCHANGE, _exchange),
    kind("percentage", "finance", 2, ((2, 99), (2, 9)), PERCENTAGE, _percentage, lambda a, b: (100 * a, b)),
    kind("profit", "finance", 3, ((12, 60), (5, 39), (2, 9)), PROFIT, _profit, lambda b, gain, c: (b + gain, b, c)),
    kind("discount", "finance", 3, ((2, 9), (2, 9)), DISCOUNT, _discount, lambda a, b: (100 * a, b)),
    kind("instalment", "finance", 3, ((11, 99), (2, 9)), INSTALMENT, _instalment, lambda part, b: (part * b, b)),
    kind("simple_interest", "finance", 4, ((2, 60), (2, 9), (2, 9)), SIMPLE, _simple, lambda a, b, c: (100 * a, b, c)),
    kind("compound_interest", "finance", 5, ((2, 40), (1, 4)), COMPOUND, _compound, lambda a, b: (100 * a, 10 * b)),
)
