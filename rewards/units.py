"""Units of measure and counting words behind a number, in English and Chinese."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

_GROUPS = """
mm millimeter millimetre 毫米
cm centimeter centimetre 厘米
dm decimeter decimetre 分米
m meter metre 米
km kilometer kilometre 千米 公里
in inch inches 英寸
ft foot feet 英尺
yd yard 码
mi mile 英里
mg milligram 毫克
g gram 克
kg kilogram 千克 公斤
t ton tonne 吨
lb lbs pound 磅
oz ounce 盎司
ml mL milliliter millilitre 毫升
l L liter litre 升
s sec second 秒
min minute 分钟
h hr hour 小时
day 天 日
week 周 星期
month 月 个月
year yr 年 岁
° deg degree 度
K kelvin 开
°C celsius 摄氏度
J joule 焦 焦耳
W watt 瓦 瓦特
N newton 牛 牛顿
V volt 伏 伏特
A ampere amp 安 安培
Hz hertz 赫兹
Pa pascal 帕
mol mole 摩尔
rad radian 弧度
m/s 米/秒 米每秒
km/h kmh kph 千米/时 公里/小时 千米/小时
mph miles/hour mileperhour milesperhour
m^2 sqm squaremeter squaremetre 平方米
cm^2 sqcm squarecentimeter squarecentimetre 平方厘米
km^2 squarekilometer squarekilometre 平方千米 平方公里
m^3 cubicmeter cubicmetre 立方米
cm^3 cubiccentimeter cubiccentimetre 立方厘米
in^2 sqin squareinch squareinches 平方英寸
ft^2 sqft squarefoot squarefeet 平方英尺
in^3 cubicinch cubicinches 立方英寸
ft^3 cubicfoot cubicfeet 立方英尺
unit units 单位
unit^2 units^2 squareunit squareunits sq.units 平方单位
unit^3 units^3 cubicunit cubicunits 立方单位
dollar USD $ 美元
cent ¢ 美分
yuan RMB CNY ¥ 元 块 块钱 人民币
euro EUR €
percent percentage % pct
个 只 条 本 张 名 人 位 辆 头 棵 支 枝 朵 件 套 箱 盒 包 次 颗 把 双 页 台 瓶 袋 组 种 块
"""

_COUNTERS = frozenset(_GROUPS.strip().splitlines()[-1].split())
KNOWN = {name: line.split()[0] for line in reversed(_GROUPS.strip().splitlines()) for name in line.split()}
"""Every known spelling to the first of its group."""

MULTIPLIERS = {
    "dozen": Fraction(12), "hundred": Fraction(100), "thousand": Fraction(1000), "million": Fraction(10**6),
    "billion": Fraction(10**9), "trillion": Fraction(10**12), "百": Fraction(100), "千": Fraction(1000),
    "万": Fraction(10**4), "百万": Fraction(10**6), "亿": Fraction(10**8),
}  # fmt: skip

_OPERATIONS = """
and or to not plus minus times over by squared cubed half halves third thirds quarter quarters factorial choose mod pi
sqrt sin cos tan log ln exp root base power of per than more less infinity 平方 立方 倍 分之 加 减 乘 除 或 和
"""
NOT_UNITS = frozenset(_OPERATIONS.split())
"""Words behind a number that change it."""

NUMERALS = {
    word: Fraction(value)
    for words in (
        "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
        " seventeen eighteen nineteen twenty",
        "零 一 二 三 四 五 六 七 八 九 十 十一 十二 十三 十四 十五 十六 十七 十八 十九 二十",
    )
    for value, word in enumerate(words.split())
} | {"两": Fraction(2)}


def canonical_unit(text: str) -> str | None:
    """The canonical name of a known unit, "" for a Chinese counting word or none, None for an unknown one."""
    text = text.strip(" .")
    if not text or text in _COUNTERS - {"块"}:
        return ""
    for name in (text, text.replace(" ", ""), text.casefold().replace(" ", "") if len(text) > 1 else text):
        if name in KNOWN:
            return KNOWN[name]
        if name.endswith("s") and name[:-1] in KNOWN and len(name) > 3:
            return KNOWN[name[:-1]]
    return None


_DIMENSIONS = (
    "s min h day week month year", "dollar cent yuan euro", "mm cm dm m km in ft yd mi", "mg g kg t lb oz", "ml l"
)  # fmt: skip
_SIBLINGS = {head: [h for h in line.split() if h != head] for line in _DIMENSIONS for head in line.split()}


def contradicted(unit: str, prompt: str) -> bool:
    """Whether `prompt` speaks of hours and never of minutes, say, and `unit` (canonical) is the minute."""
    siblings = _SIBLINGS.get(unit, ())
    return any(_named(head, True).search(prompt) for head in siblings) and not _named(unit, False).search(prompt)


@lru_cache(maxsize=128)
def _named(head: str, surely: bool) -> re.Pattern[str]:
    """Finds a unit in any spelling, or `surely`: only in those that cannot be part of something else."""
    names = [name for name, known in KNOWN.items() if known == head]
    if surely:
        names = [name for name in names if len(name) >= (3 if name.isascii() else 2)]
    spelled = "|".join(
        rf"(?<![a-z]){name}(?:s|es)?(?![a-z])" if name.isalpha() and name.isascii() else re.escape(name)
        for name in names
    )
    return re.compile(spelled, re.IGNORECASE)
