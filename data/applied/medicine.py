"""Problems in medicine: units, doses by weight and by day, tablets, drip rates, body-mass index.

Arithmetic in the words of the ward. The figures are drawn at random, and are no advice on any drug.
"""

from __future__ import annotations

from data.applied.sheet import kind, state, then
from data.tiny.problems import Kind, Operands
from data.tiny.scribe import Scribe, Text, divide, multiply

GRAMS: tuple[Text, ...] = (
    ("A vial holds {a} g of a drug. How many mg is that?", "一瓶药含{a}克。是多少毫克？"),
    ("Convert a dose of {a} g to mg.", "把{a}克的剂量换算成毫克是多少？"),
)
WEIGHT: tuple[Text, ...] = (
    (
        "The dose is {b} mg per kg. A patient weighs {a} kg. How many mg are given?",
        "剂量是每千克体重{b}毫克。病人重{a}千克。应给多少毫克？",
    ),
)
TABLETS: tuple[Text, ...] = (
    ("A dose is {a} mg and a tablet has {b} mg. How many tablets are taken?", "剂量{a}毫克，每片{b}毫克。要服多少片？"),
)
DRIP: tuple[Text, ...] = (
    (
        "{a} mL of saline run in over {b} hours. How many mL is that per hour?",
        "盐水{a}毫升，{b}小时输完。每小时多少毫升？",
    ),
)
DROPS: tuple[Text, ...] = (
    (
        "A drip runs at {b} mL a minute and 1 mL is {a} drops. How many drops fall a minute?",
        "输液每分钟{b}毫升，1毫升为{a}滴。每分钟多少滴？",
    ),
)
BMI: tuple[Text, ...] = (
    (
        "A patient weighs {a} kg. The square of the height is {b} m2. What is the body-mass index?",
        "病人体重{a}千克，身高的平方是{b}平方米。体重指数是多少？",
    ),
)
COURSE: tuple[Text, ...] = (
    (
        "A patient takes {a} mg of a drug {b} times a day. How many mg are that in {c} days?",
        "病人每次服药{a}毫克，每天{b}次。{c}天共服多少毫克？",
    ),
)
DAILY: tuple[Text, ...] = (
    (
        "The daily dose is {b} mg per kg, in {c} equal parts. A child weighs {a} kg. How many mg is one part?",
        "每日剂量为每千克{b}毫克，分{c}次。孩子重{a}千克。每次多少毫克？",
    ),
)


def _grams(operands: Operands, scribe: Scribe) -> str:
    a = operands[0]
    scribe.say("The factor is 1000.", "1克是1000毫克。")
    scribe.say(f"{a}*1000={a * 1000}.", f"{a}*1000={a * 1000}。")
    return str(a * 1000)


def _weight(operands: Operands, scribe: Scribe) -> str:
    a, b = operands
    state(scribe, ("Dose is weight times mg per kg", "剂量等于体重乘每千克剂量"), f"{a}*{b}")
    return str(multiply(scribe, a, b))


def _tablets(operands: Operands, scribe: Scribe) -> str:
    a, b = operands
    state(scribe, ("Tablets are dose over strength", "片数等于剂量除以每片含量"), f"{a}/{b}")
    return str(divide(scribe, a, b))


def _drip(operands: Operands, scribe: Scribe) -> str:
    a, b = operands
    state(scribe, ("Rate is volume over time", "速度等于体积除以时间"), f"{a}/{b}")
    return str(divide(scribe, a, b))


def _drops(operands: Operands, scribe: Scribe) -> str:
    a, b = operands
    state(scribe, ("Drops are volume times drops per mL", "滴数等于体积乘每毫升滴数"), f"{a}*{b}")
    return str(multiply(scribe, a, b))


def _bmi(operands: Operands, scribe: Scribe) -> str:
    a, b = operands
    state(scribe, ("The index is weight over height squared", "体重指数等于体重除以身高的平方"), f"{a}/{b}")
    return str(divide(scribe, a, b))


def _course(operands: Operands, scribe: Scribe) -> str:
    a, b, c = operands
    state(scribe, ("A day is dose times number", "一天等于每次剂量乘次数"), f"{a}*{b}")
    day = multiply(scribe, a, b)
    then(scribe, f"{day}*{c}")
    return str(multiply(scribe, day, c))


def _daily(operands: Operands, scribe: Scribe) -> str:
    a, b, c = operands
    state(scribe, ("Dose is weight times mg per kg", "剂量等于体重乘每千克剂量"), f"{a}*{b}")
    day = multiply(scribe, a, b)
    then(scribe, f"{day}/{c}")
    return str(divide(scribe, day, c))


KINDS: tuple[Kind, ...] = (
    kind("grams", "medicine", 1, ((2, 99),), GRAMS, _grams),
    kind("weight_dose", "medicine", 2, ((11, 99), (2, 9)), WEIGHT, _weight),
    kind("drops", "medicine", 2, ((11, 60), (2, 9)), DROPS, _drops),
    kind("tablets", "medicine", 3, ((2, 49), (2, 9)), TABLETS, _tablets, lambda n, b: (n * b, b)),
    kind("drip", "medicine", 3, ((11, 99), (2, 9)), DRIP, _drip, lambda rate, b: (rate * b, b)),
    kind("bmi", "medicine", 3, ((14, 40), (2, 3)), BMI, _bmi, lambda index, b: (index * b, b)),
    kind("course", "medicine", 4, ((11, 99), (2, 4), (3, 9)), COURSE, _course),
    kind("divided_dose", "medicine", 5, ((4, 20), (2, 9), (2, 4)), DAILY, _daily, lambda a, b, c: (a * c, b, c)),
)
