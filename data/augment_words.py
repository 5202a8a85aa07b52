"""The bundled words of data augmentation: synonyms, framings, and the words that are never replaced.

The table is small because every pair must hold in any sentence: a word with a second meaning ("store", "kind") is left
out, and a pair stands in one direction only where the other would not hold.
"""

from __future__ import annotations

from collections.abc import Mapping

SYNONYMS: Mapping[str, tuple[str, ...]] = {
    "assistance": ("help",),
    "assisted": ("helped",),
    "automobile": ("car",),
    "automobiles": ("cars",),
    "bought": ("purchased",),
    "buying": ("purchasing",),
    "child": ("kid",),
    "children": ("kids",),
    "constructed": ("built",),
    "constructs": ("builds",),
    "couch": ("sofa",),
    "dad": ("father",),
    "everybody": ("everyone",),
    "everyone": ("everybody",),
    "frequently": ("often",),
    "fridge": ("refrigerator",),
    "garbage": ("trash",),
    "grandma": ("grandmother",),
    "grandmother": ("grandma",),
    "grandfather": ("grandpa",),
    "grandpa": ("grandfather",),
    "kids": ("children",),
    "large": ("big",),
    "mom": ("mother",),
    "movie": ("film",),
    "movies": ("films",),
    "obtained": ("got",),
    "obtains": ("gets",),
    "often": ("frequently",),
    "physician": ("doctor",),
    "physicians": ("doctors",),
    "purchased": ("bought",),
    "purchasing": ("buying",),
    "rapidly": ("quickly",),
    "refrigerator": ("fridge",),
    "repaired": ("fixed",),
    "requires": ("needs",),
    "sofa": ("couch",),
    "someone": ("somebody",),
    "somebody": ("someone",),
    "trash": ("garbage",),
    "wealthy": ("rich",),
    "书籍": ("图书",),
    "买来": ("购来",),
    "修建": ("修筑",),
    "修筑": ("修建",),
    "卖出": ("售出",),
    "售出": ("卖出",),
    "喜欢": ("喜爱",),
    "土豆": ("马铃薯",),
    "妈妈": ("母亲",),
    "爷爷": ("祖父",),
    "爸爸": ("父亲",),
    "自行车": ("单车",),
    "西红柿": ("番茄",),
    "番茄": ("西红柿",),
    "购买": ("选购",),
    "马铃薯": ("土豆",),
    "高兴": ("开心",),
}
"""A word and what may stand in its place in any sentence."""

_TASK_WORDS = (
    "no not never none nor without neither either or and but if unless until than more most less least fewer "
    "fewest few many much any some all each every both half double twice once only same different other another "
    "again also extra additional remaining rest left total altogether sum difference product quotient average "
    "mean ratio percent equal equals before after first last next between above below over under at up down per "
    "times add added subtract multiply divide divided increase increased decrease decreased enough exactly whole "
    "odd even prime how what which who whom whose when where why find calculate compute prove show write return "
    "answer true false "
)
TASK = frozenset(_TASK_WORDS.split())
"""English words that carry the task of a question."""

TASK_ZH = (
    "不没非无未别多少几最每各共总半倍剩余还只仅比或且若如果若平均和差积商增加减乘除至超过以上以下前后先再又都全相等"
    "同何谁哪什么怎为求证明算"
)
"""Han characters that carry the task of a question, or may."""

_UNITS_WORDS = (
    "metre metres meter meters kilometre kilometres kilometer kilometers centimetre centimetres centimeter centimeters "
    "millimetre millimetres mile miles yard yards foot feet inch inches gram grams kilogram kilograms tonne tonnes ton "
    "tons pound pounds ounce ounces litre litres liter liters gallon gallons quart quarts pint pints cup cups second "
    "seconds minute minutes hour hours day days week weeks month months year years dollar dollars cent cents penny "
    "pennies dime dimes nickel nickels quarter quarters euro euros yuan degree degrees dozen"
)
UNITS = frozenset(_UNITS_WORDS.split())
"""English units."""

UNITS_ZH = (
    "元",
    "角",
    "分",
    "米",
    "千克",
    "公斤",
    "克",
    "吨",
    "升",
    "秒",
    "时",
    "天",
    "日",
    "周",
    "星期",
    "月",
    "年",
    "度",
    "厘",
    "毫",
)
"""Chinese units, or a part of one."""

QUESTIONS: Mapping[str, tuple[str, ...]] = {
    "en": (
        "Please answer the following question.\n\n{text}",
        "Could you help me with this question? {text}",
        "Here is a question for you: {text}",
        "I would like to know the answer to this question. {text}",
        "Question: {text}",
        "{text}\n\nPlease answer this question.",
        "{text} Thank you for your help.",
    ),
    "zh": (
        "请回答下面的问题。\n\n{text}",
        "请帮我解答这个问题：{text}",
        "有一个问题想请教：{text}",
        "我想知道下面这个问题的答案。{text}",
        "问题：{text}",
        "{text}\n\n请回答这个问题。",
        "{text}谢谢你的帮助。",
    ),
}
"""Framings of what ends in a question mark."""

REQUESTS: Mapping[str, tuple[str, ...]] = {
    "en": (
        "Please help me with the following.\n\n{text}",
        "Could you help me with this? {text}",
        "I need your help with this: {text}",
        "Task: {text}",
        "{text}\n\nThank you for your help.",
    ),
    "zh": (
        "请帮我完成下面的任务。\n\n{text}",
        "请你帮个忙：{text}",
        "任务：{text}",
        "下面的事想请你帮忙：{text}",
        "{text}\n\n谢谢你的帮助。",
    ),
}
"""Framings of everything else."""

QUESTION_FIRST: Mapping[str, tuple[str, ...]] = {
    "en": ("{question} This is what is known: {rest}", "Answer this: {question}\n\nWhat is given: {rest}"),
    "zh": ("{question}已知：{rest}", "请回答：{question}\n\n已知条件：{rest}"),
}
"""A question in front of what is given."""
