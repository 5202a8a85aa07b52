"""Problems in science: unit conversions (levels 1 and 2) and one formula of physics (levels 3 to 5)."""

from __future__ import annotations

import random

from data.tiny.mathematics import product_identity, quotient_identity, sum_identity
from data.tiny.problems import Kind, Operands, phrase
from data.tiny.scribe import Scribe, Text, add, divide, multiply

UNITS: tuple[tuple[Text, Text, int], ...] = (
    (("kilometres", "千米"), ("metres", "米"), 1000),
    (("metres", "米"), ("centimetres", "厘米"), 100),
    (("centimetres", "厘米"), ("millimetres", "毫米"), 10),
    (("kilograms", "千克"), ("grams", "克"), 1000),
    (("tonnes", "吨"), ("kilograms", "千克"), 1000),
    (("litres", "升"), ("millilitres", "毫升"), 1000),
)
"""Larger unit, smaller unit, how many of the smaller make one of the larger."""

PERIODS: tuple[tuple[Text, Text, int], ...] = (
    (("hours", "小时"), ("minutes", "分钟"), 60),
    (("minutes", "分钟"), ("seconds", "秒"), 60),
    (("years", "年"), ("months", "个月"), 12),
    (("weeks", "周"), ("days", "天"), 7),
)

CONVERT: tuple[Text, ...] = (
    ("How many {small} are {n} {big}?", "{n}{big}是多少{small}？"),
    ("Convert {n} {big} to {small}.", "把{n}{big}换算成{small}。"),
)

LAWS: tuple[tuple[str, Text, Text], ...] = (
    (
        "distance",
        (
            "A car drives at {a} km/h for {b} hours. How many km does it go?",
            "汽车每小时行{a}千米，行了{b}小时。走了多少千米？",
        ),
        ("Distance is speed times time", "路程等于速度乘时间"),
    ),
    (
        "force",
        (
            "A mass of {a} kg speeds up at {b} m/s2. What is the force in N?",
            "质量{a}千克，加速度{b}米每秒方。力是多少牛？",
        ),
        ("Force is mass times acceleration", "力等于质量乘加速度"),
    ),
    (
        "voltage",
        ("A current of {b} A runs through {a} ohms. What is the voltage in V?", "电阻{a}欧，电流{b}安。电压是多少伏？"),
        ("Voltage is current times resistance", "电压等于电流乘电阻"),
    ),
    (
        "energy",
        ("A lamp of {a} W burns for {b} s. What is the energy in J?", "功率{a}瓦的灯亮{b}秒。能量是多少焦？"),
        ("Energy is power times time", "能量等于功率乘时间"),
    ),
)

RATIOS: tuple[tuple[str, Text, Text], ...] = (
    (
        "speed",
        (
            "A train goes {a} km in {b} hours. What is its speed in km/h?",
            "火车{b}小时行{a}千米。速度是每小时多少千米？",
        ),
        ("Speed is distance over time", "速度等于路程除以时间"),
    ),
    (
        "density",
        ("A stone of {a} g fills {b} cm3. What is its density in g/cm3?", "石头重{a}克，体积{b}立方厘米。密度是多少？"),
        ("Density is mass over volume", "密度等于质量除以体积"),
    ),
    (
        "current",
        ("A voltage of {a} V lies on {b} ohms. What is the current in A?", "电压{a}伏，电阻{b}欧。电流是多少安？"),
        ("Current is voltage over resistance", "电流等于电压除以电阻"),
    ),
)

MOTION: tuple[Text, ...] = (
    (
        "A ball rolls at {c} m/s and gains {a} m/s each second for {b} s. What is its speed in m/s?",
        "球速每秒{c}米，每秒加快{a}米，共{b}秒。速度是每秒多少米？",
    ),
)


def _draw_unit(rng: random.Random) -> Operands:
    return rng.randrange(len(UNITS)), rng.randint(2, 99)


def _draw_period(rng: random.Random) -> Operands:
    return rng.randrange(len(PERIODS)), rng.randint(11, 99)


def _pose_unit(operands: Operands, rng: random.Random, language: str) -> str:
    return _pose_conversion(UNITS[operands[0]], operands[1], rng, language)


def _pose_period(operands: Operands, rng: random.Random, language: str) -> str:
    return _pose_conversion(PERIODS[operands[0]], operands[1], rng, language)


def _pose_conversion(unit: tuple[Text, Text, int], n: int, rng: random.Random, language: str) -> str:
    big, small, _ = unit
    return phrase(CONVERT, rng, language, n=n, big=big[language == "zh"], small=small[language == "zh"])


def _solve_unit(operands: Operands, scribe: Scribe) -> str:
    n = operands[1]
    (_, big_zh), (_, small_zh), factor = UNITS[operands[0]]
    scribe.say(f"The factor is {factor}.", f"1{big_zh}是{factor}{small_zh}。")
    result = scribe.figure(n) * factor
    scribe.say(f"{n}*{factor}={result}.", f"{n}*{factor}={result}。")
    return str(result)


def _solve_period(operands: Operands, scribe: Scribe) -> str:
    n = operands[1]
    (_, big_zh), (_, small_zh), factor = PERIODS[operands[0]]
    scribe.say(f"The factor is {factor}.", f"1{big_zh}是{factor}{small_zh}。")
    if factor == 12:
        twice = multiply(scribe, n, 2)
        scribe.say(f"Then {n * 10}+{twice}.", f"再算{n * 10}+{twice}。")
        return str(add(scribe, n * 10, twice))
    digit = factor // 10 or factor
    result = multiply(scribe, n, digit)
    if factor >= 10:
        result *= 10
        scribe.say(f"Times 10 is {result}.", f"乘10得{result}。")
    return str(result)


def _period_parts(operands: Operands) -> tuple[str, ...]:
    n, factor = operands[1], PERIODS[operands[0]][2]
    if factor == 12:
        return product_identity(n, 12), product_identity(n, 2), sum_identity(n * 10, n * 2)
    return product_identity(n, factor), product_identity(n, factor // 10 or factor)


def _draw_law(rng: random.Random) -> Operands:
    return rng.randrange(len(LAWS)), rng.randint(11, 99), rng.randint(2, 9)


def _solve_law(operands: Operands, scribe: Scribe) -> str:
    which, a, b = operands
    en, zh = LAWS[which][2]
    scribe.say(f"{en}, {a}*{b}.", f"{zh}，{a}*{b}。")
    return str(multiply(scribe, a, b))


def _draw_ratio(rng: random.Random) -> Operands:
    b = rng.randint(2, 9)
    return rng.randrange(len(RATIOS)), rng.randint(11, 99) * b, b


def _solve_ratio(operands: Operands, scribe: Scribe) -> str:
    which, a, b = operands
    en, zh = RATIOS[which][2]
    scribe.say(f"{en}, {a}/{b}.", f"{zh}，{a}/{b}。")
    return str(divide(scribe, a, b))


def _draw_motion(rng: random.Random) -> Operands:
    return rng.randint(11, 39), rng.randint(2, 9), rng.randint(10, 99)


def _solve_motion(operands: Operands, scribe: Scribe) -> str:
    a, b, c = operands
    scribe.say(f"The gain is {a}*{b}.", f"加快{a}*{b}。")
    gain = multiply(scribe, a, b)
    scribe.say(f"Then {gain}+{c}.", f"再算{gain}+{c}。")
    return str(add(scribe, gain, c))


def _pose_law(operands: Operands, rng: random.Random, language: str) -> str:
    which, a, b = operands
    return phrase((LAWS[which][1],), rng, language, a=a, b=b)


def _pose_ratio(operands: Operands, rng: random.Random, language: str) -> str:
    which, a, b = operands
    return phrase((RATIOS[which][1],), rng, language, a=a, b=b)


def _pose_motion(operands: Operands, rng: random.Random, language: str) -> str:
    return phrase(MOTION, rng, language, **dict(zip("abc", operands, strict=True)))


KINDS: tuple[Kind, ...] = (
    Kind(
        name="unit",
        domain="science",
        level=1,
        draw=_draw_unit,
        identity=lambda o: f"unit:{UNITS[o[0]][0][0]},{UNITS[o[0]][1][0]},{o[1]}",
        pose=_pose_unit,
        solve=_solve_unit,
    ),
    Kind(
        name="period",
        domain="science",
        level=3,
        draw=_draw_period,
        identity=lambda o: f"unit:{PERIODS[o[0]][0][0]},{PERIODS[o[0]][1][0]},{o[1]}",
        pose=_pose_period,
        solve=_solve_period,
        parts=_period_parts,
    ),
    Kind(
        name="law",
        domain="science",
        level=2,
        draw=_draw_law,
        identity=lambda o: f"{LAWS[o[0]][0]}:{o[1]},{o[2]}",
        pose=_pose_law,
        solve=_solve_law,
        parts=lambda o: (product_identity(o[1], o[2]),),
    ),
    Kind(
        name="ratio",
        domain="science",
        level=4,
        draw=_draw_ratio,
        identity=lambda o: f"{RATIOS[o[0]][0]}:{o[1]},{o[2]}",
        pose=_pose_ratio,
        solve=_solve_ratio,
        parts=lambda o: (quotient_identity(o[1], o[2]),),
    ),
    Kind(
        name="motion",
        domain="science",
        level=5,
        draw=_draw_motion,
        identity=lambda o: "motion:{},{},{}".format(*o),
        pose=_pose_motion,
        solve=_solve_motion,
        parts=lambda o: (product_identity(o[0], o[1]), sum_identity(o[0] * o[1], o[2])),
    ),
)
