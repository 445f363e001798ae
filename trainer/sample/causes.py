"""Causes and effects in the languages that XCOPA's look-alike is written in."""

from __future__ import annotations

import random

CAUSE_LANGUAGES = ("en", "sw", "tr", "zh")

# (cause, effect) in each of CAUSE_LANGUAGES
CAUSES = (
    (("It rained all night.", "The street was wet in the morning."),
     ("Mvua ilinyesha usiku kucha.", "Barabara ilikuwa na maji asubuhi."),
     ("Bütün gece yağmur yağdı.", "Sabah sokak ıslaktı."), ("下了一整夜的雨。", "早上街道是湿的。")),
    (("The boy dropped the glass.", "The glass broke."), ("Mvulana aliangusha glasi.", "Glasi ilivunjika."),
     ("Çocuk bardağı düşürdü.", "Bardak kırıldı."), ("男孩把杯子掉在地上了。", "杯子碎了。")),
    (("The baby was hungry.", "The baby cried."), ("Mtoto alikuwa na njaa.", "Mtoto alilia."),
     ("Bebek acıkmıştı.", "Bebek ağladı."), ("婴儿饿了。", "婴儿哭了。")),
    (("The shop was closed.", "The woman could not buy bread."),
     ("Duka lilikuwa limefungwa.", "Mwanamke hakuweza kununua mkate."),
     ("Dükkân kapalıydı.", "Kadın ekmek alamadı."), ("商店关门了。", "女人没能买到面包。")),
    (("The student studied hard.", "The student passed the exam."),
     ("Mwanafunzi alisoma kwa bidii.", "Mwanafunzi alifaulu mtihani."),
     ("Öğrenci çok çalıştı.", "Öğrenci sınavı geçti."), ("学生努力学习。", "学生通过了考试。")),
    (("The sun was very hot.", "The ice melted."), ("Jua lilikuwa kali sana.", "Barafu iliyeyuka."),
     ("Güneş çok sıcaktı.", "Buz eridi."), ("太阳很热。", "冰融化了。")),
    (("The driver fell asleep.", "The car hit a tree."), ("Dereva alisinzia.", "Gari liligonga mti."),
     ("Sürücü uyuyakaldı.", "Araba bir ağaca çarptı."), ("司机睡着了。", "汽车撞上了一棵树。")),
    (("The dog heard a noise.", "The dog barked."), ("Mbwa alisikia kelele.", "Mbwa alibweka."),
     ("Köpek bir ses duydu.", "Köpek havladı."), ("狗听到了声音。", "狗叫了。")),
    (("The man forgot his umbrella.", "The man's clothes got wet in the rain."),
     ("Mwanamume alisahau mwavuli wake.", "Nguo za mwanamume zililowa kwa mvua."),
     ("Adam şemsiyesini unuttu.", "Adamın kıyafetleri yağmurda ıslandı."),
     ("男人忘了带雨伞。", "男人的衣服被雨淋湿了。")),
    (("Nobody watered the flowers.", "The flowers died."), ("Hakuna mtu aliyemwagilia maua.", "Maua yalikufa."),
     ("Çiçekleri kimse sulamadı.", "Çiçekler soldu."), ("没有人给花浇水。", "花死了。")),
    (("The team scored the last goal.", "The team won the match."),
     ("Timu ilifunga bao la mwisho.", "Timu ilishinda mechi."),
     ("Takım son golü attı.", "Takım maçı kazandı."), ("球队进了最后一个球。", "球队赢了比赛。")),
    (("The soup had no salt.", "The guests asked for salt."), ("Supu haikuwa na chumvi.", "Wageni waliomba chumvi."),
     ("Çorbada tuz yoktu.", "Misafirler tuz istedi."), ("汤里没有盐。", "客人们要了盐。")),
    (("The lamp was broken.", "The room was dark."), ("Taa ilikuwa imeharibika.", "Chumba kilikuwa na giza."),
     ("Lamba bozuktu.", "Oda karanlıktı."), ("灯坏了。", "房间很暗。")),
    (("The girl ran for an hour.", "The girl was tired."),
     ("Msichana alikimbia kwa saa moja.", "Msichana alichoka."),
     ("Kız bir saat koştu.", "Kız yoruldu."), ("女孩跑了一个小时。", "女孩累了。")),
    (("The bus came late.", "The teacher missed the start of the lesson."),
     ("Basi lilichelewa.", "Mwalimu alikosa mwanzo wa somo."),
     ("Otobüs geç geldi.", "Öğretmen dersin başını kaçırdı."), ("公共汽车来晚了。", "老师错过了上课的开始。")),
    (("The wind was strong.", "The hat flew away."), ("Upepo ulikuwa mkali.", "Kofia ilipeperuka."),
     ("Rüzgâr kuvvetliydi.", "Şapka uçup gitti."), ("风很大。", "帽子被吹走了。")),
)  # fmt: skip

# rows of which one might explain the other's effect, so that they never stand against each other
_CLASHES = ({0, 8}, {0, 15}, {5, 9}, {6, 14}, {6, 15}, {9, 15}, {12, 15}, {6, 12}, {4, 13}, {1, 15}, {3, 14})


def cause_or_effect(rng: random.Random, label: int) -> tuple[str, int, int]:
    """Which is asked for, the row that gives premise and right choice, and the row that gives the wrong choice."""
    row = rng.randrange(len(CAUSES))
    wrong = [i for i in range(len(CAUSES)) if i != row and {i, row} not in _CLASHES]
    return rng.choice(("cause", "effect")), row, rng.choice(wrong)


def copa_row(language: str, question: str, row: int, wrong: int, label: int, number: int) -> dict:
    """An object of XCOPA's JSON lines."""
    column = CAUSE_LANGUAGES.index(language)
    asked = 0 if question == "cause" else 1
    choices = [CAUSES[row][column][asked], CAUSES[wrong][column][asked]]
    first, second = choices if label == 0 else choices[::-1]
    return {
        "premise": CAUSES[row][column][1 - asked], "choice1": first, "choice2": second, "question": question,
        "label": label, "idx": number, "changed": False,
    }  # fmt: skip
