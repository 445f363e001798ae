"""Languages by ISO 639-1 code, with what file names and data sets call them."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from trainer.errors import UserError


@dataclass(frozen=True)
class Language:
    """A language.

    Attributes:
        code: ISO 639-1, "de".
        iso3: ISO 639-3, "deu"; the individual language where the code means several, as in Tatoeba's files (zh: cmn).
        name: in English, "German".
    """

    code: str
    iso3: str
    name: str


# XTREME's 40 languages, XTREME-R's, XCOPA's and those that XLM-R was trained on (arXiv 1911.02116, table 6)
_TABLE = """
af afr Afrikaans; am amh Amharic; ar ara Arabic; as asm Assamese; az aze Azerbaijani; be bel Belarusian;
bg bul Bulgarian; bn ben Bengali; br bre Breton; bs bos Bosnian; ca cat Catalan; cs ces Czech; cy cym Welsh;
da dan Danish; de deu German; el ell Greek; en eng English; eo epo Esperanto; es spa Spanish; et est Estonian;
eu eus Basque; fa pes Persian; fi fin Finnish; fr fra French; fy fry Frisian; ga gle Irish; gd gla Gaelic;
gl glg Galician; gu guj Gujarati; ha hau Hausa; he heb Hebrew; hi hin Hindi; hr hrv Croatian; ht hat Haitian;
hu hun Hungarian; hy hye Armenian; id ind Indonesian; is isl Icelandic; it ita Italian; ja jpn Japanese;
jv jav Javanese; ka kat Georgian; kk kaz Kazakh; km khm Khmer; kn kan Kannada; ko kor Korean; ku kur Kurdish;
ky kir Kyrgyz; la lat Latin; lo lao Lao; lt lit Lithuanian; lv lav Latvian; mg mlg Malagasy; mk mkd Macedonian;
ml mal Malayalam; mn mon Mongolian; mr mar Marathi; ms zsm Malay; my mya Burmese; ne nep Nepali; nl nld Dutch;
no nor Norwegian; om orm Oromo; or ori Oriya; pa pan Punjabi; pl pol Polish; ps pus Pashto; pt por Portuguese;
qu que Quechua; ro ron Romanian; ru rus Russian; sa san Sanskrit; sd snd Sindhi; si sin Sinhala; sk slk Slovak;
sl slv Slovenian; so som Somali; sq sqi Albanian; sr srp Serbian; su sun Sundanese; sv swe Swedish; sw swh Swahili;
ta tam Tamil; te tel Telugu; th tha Thai; tl tgl Tagalog; tr tur Turkish; ug uig Uyghur; uk ukr Ukrainian;
ur urd Urdu; uz uzb Uzbek; vi vie Vietnamese; wo wol Wolof; xh xho Xhosa; yi yid Yiddish; yo yor Yoruba;
zh cmn Chinese
"""
LANGUAGES = {language.code: language for language in (Language(*entry.split()) for entry in _TABLE.split(";"))}

PLACEHOLDERS = ("{language}", "{iso3}", "{name}", "{Name}")


def language_of(code: str) -> Language:
    """The language of a code.

    Raises:
        UserError: there is none; names the nearest code, or the codes there are.
    """
    if code in LANGUAGES:
        return LANGUAGES[code]
    by_name = {language.name.lower(): language.code for language in LANGUAGES.values()}
    by_name |= {language.iso3: language.code for language in LANGUAGES.values()}
    near = difflib.get_close_matches(str(code).lower(), by_name, n=1, cutoff=0.8)
    fix = f"did you mean {by_name[near[0]]!r}?" if near else f"one of: {', '.join(LANGUAGES)}"
    raise UserError(f"unknown language {code!r}", why="languages are two-letter codes, ISO 639-1", fix=fix)


def has_placeholder(text: str) -> bool:
    """Whether the language decides what `text` names."""
    return any(placeholder in text for placeholder in PLACEHOLDERS)


def fill_in(text: str, code: str) -> str:
    """`text` with {language} (de), {iso3} (deu), {name} (german) and {Name} (German) replaced.

    Raises:
        UserError: no such language code.
    """
    language = language_of(code)
    for placeholder, value in zip(
        PLACEHOLDERS, (code, language.iso3, language.name.lower(), language.name), strict=True
    ):
        text = text.replace(placeholder, value)
    return text
