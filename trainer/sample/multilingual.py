"""The parallel inventory: the same words, word orders and sentences in eight languages.

Every table's columns follow `LANGUAGES`. A word is followed by `/TAG`, its universal part of speech, where that is not
the table's usual one. The habitual present was chosen because it needs no agreement with the subject's gender in any of
these languages; cities stand in the form the preposition asks for.
"""

from __future__ import annotations

LANGUAGES = ("en", "de", "es", "fr", "ru", "sw", "tr", "zh")
ISO3 = {"de": "deu", "es": "spa", "fr": "fra", "ru": "rus", "sw": "swh", "tr": "tur", "zh": "cmn"}
FULL_NAMES = {"en": "english", "ru": "russian", "sw": "swahili"}


def _table(text: str) -> list[dict[str, str]]:
    rows = [[cell.strip() for cell in line.split(";")] for line in text.strip().splitlines()]
    return [dict(zip(LANGUAGES, row, strict=True)) for row in rows]


def _names(latin: str, russian: str, chinese: str) -> list[dict[str, str]]:
    rows = zip(latin.split(), russian.split(), chinese.split(), strict=True)
    return [dict.fromkeys(LANGUAGES, lat) | {"ru": ru, "zh": zh} for lat, ru, zh in rows]


NAMES = _names(
    "Anna Maria Sofia Elena Clara Laura Peter Thomas David Daniel Martin Simon Victor Oscar",
    "Анна Мария София Елена Клара Лаура Петер Томас Давид Даниэль Мартин Симон Виктор Оскар",
    "安娜 玛丽亚 索菲亚 埃琳娜 克拉拉 劳拉 彼得 托马斯 大卫 丹尼尔 马丁 西蒙 维克多 奥斯卡",
)
SURNAMES = _names(
    "Weber Silva Novak Rossi Moreau Meyer", "Вебер Сильва Новак Росси Моро Мейер", "韦伯 席尔瓦 诺瓦克 罗西 莫罗 迈尔"
)
COMPANIES = _names(
    "Siemens Toyota Nokia Samsung Airbus Bosch",
    "Siemens Toyota Nokia Samsung Airbus Bosch",
    "西门子 丰田 诺基亚 三星 空中客车 博世",
)

# finite form; after a comma the form under negation, then the form of questions (en) or relative clauses (sw)
VERBS = {row["en"].split(",")[-1]: row for row in _table("""
    buys,buys,buy; kauft; compra; achète; покупает; hununua,hanunui,anayenunua; alır,almaz; 买
    sells,sells,sell; verkauft; vende; vend; продаёт; huuza,hauzi,anayeuza; satar,satmaz; 卖
    eats,eats,eat; isst; come; mange; ест; hula,hali,anayekula; yer,yemez; 吃
    drinks,drinks,drink; trinkt; bebe; boit; пьёт; hunywa,hanywi,anayekunywa; içer,içmez; 喝
    reads,reads,read; liest; lee; lit; читает; husoma,hasomi,anayesoma; okur,okumaz; 读
    writes,writes,write; schreibt; escribe; écrit; пишет; huandika,haandiki,anayeandika; yazar,yazmaz; 写
    cooks,cooks,cook; kocht; cocina; prépare; готовит; hupika,hapiki,anayepika; pişirir,pişirmez; 做
    draws,draws,draw; zeichnet; dibuja; dessine; рисует; huchora,hachori,anayechora; çizer,çizmez; 画
""")}  # fmt: skip

OBJECTS = {row["en"].split()[-1]: row for row in _table("""
    bread; Brot; pan; du/DET pain; хлеб; mkate; ekmek; 面包
    fish; Fisch; pescado; du/DET poisson; рыбу; samaki; balık; 鱼
    milk; Milch; leche; du/DET lait; молоко; maziwa; süt; 牛奶
    rice; Reis; arroz; du/DET riz; рис; wali; pilav; 米饭
    soup; Suppe; sopa; de/ADP la/DET soupe; суп; supu; çorba; 汤
    tea; Tee; té; du/DET thé; чай; chai; çay; 茶
    coffee; Kaffee; café; du/DET café; кофе; kahawa; kahve; 咖啡
    water; Wasser; agua; de/ADP l'/DET eau; воду; maji; su; 水
    a/DET book; ein/DET Buch; un/DET libro; un/DET livre; книгу; kitabu; kitap; 一/NUM 本 书
    a/DET newspaper; eine/DET Zeitung; un/DET periódico; un/DET journal; газету; gazeti; gazete; 一/NUM 份 报纸
    a/DET letter; einen/DET Brief; una/DET carta; une/DET lettre; письмо; barua; mektup; 一/NUM 封 信
    a/DET poem; ein/DET Gedicht; un/DET poema; un/DET poème; стихотворение; shairi; şiir; 一/NUM 首 诗
    a/DET house; ein/DET Haus; una/DET casa; une/DET maison; дом; nyumba; bir/DET ev; 一/NUM 座 房子
    a/DET tree; einen/DET Baum; un/DET árbol; un/DET arbre; дерево; mti; bir/DET ağaç; 一/NUM 棵 树
""")}  # fmt: skip

ACTIONS = tuple(  # verb and object that go together in all eight languages
    (verb, thing)
    for verb, things in (
        ("buy", "bread fish milk book newspaper"), ("sell", "bread fish milk"), ("eat", "bread fish rice soup"),
        ("drink", "tea coffee water milk"), ("read", "book newspaper letter poem"), ("write", "letter poem book"),
        ("cook", "fish rice soup"), ("draw", "house tree"),
    )
    for thing in things.split()
)  # fmt: skip

PLACES = _table("""
    in/ADP Berlin; in/ADP Berlin; en/ADP Berlín; à/ADP Berlin; в/ADP Берлине; mjini/NOUN Berlin; Berlin'de; 在/ADP 柏林
    in/ADP Madrid; in/ADP Madrid; en/ADP Madrid; à/ADP Madrid; в/ADP Мадриде; mjini/NOUN Madrid; Madrid'de; 在/ADP 马德里
    in/ADP Paris; in/ADP Paris; en/ADP París; à/ADP Paris; в/ADP Париже; mjini/NOUN Paris; Paris'te; 在/ADP 巴黎
    in/ADP Rome; in/ADP Rom; en/ADP Roma; à/ADP Rome; в/ADP Риме; mjini/NOUN Roma; Roma'da; 在/ADP 罗马
    in/ADP London; in/ADP London; en/ADP Londres; à/ADP Londres; в/ADP Лондоне; mjini/NOUN London; Londra'da; 在/ADP 伦敦
    in/ADP Moscow; in/ADP Moskau; en/ADP Moscú; à/ADP Moscou; в/ADP Москве; mjini/NOUN Moscow; Moskova'da; 在/ADP 莫斯科
    in/ADP Nairobi; in/ADP Nairobi; en/ADP Nairobi; à/ADP Nairobi; в/ADP Найроби; mjini/NOUN Nairobi; Nairobi'de; 在/ADP 内罗毕
    in/ADP Istanbul; in/ADP Istanbul; en/ADP Estambul; à/ADP Istanbul; в/ADP Стамбуле; mjini/NOUN Istanbul; İstanbul'da; 在/ADP 伊斯坦布尔
    in/ADP Tokyo; in/ADP Tokio; en/ADP Tokio; à/ADP Tokyo; в/ADP Токио; mjini/NOUN Tokyo; Tokyo'da; 在/ADP 东京
    in/ADP Beijing; in/ADP Peking; en/ADP Pekín; à/ADP Pékin; в/ADP Пекине; mjini/NOUN Beijing; Pekin'de; 在/ADP 北京
    in/ADP Vienna; in/ADP Wien; en/ADP Viena; à/ADP Vienne; в/ADP Вене; mjini/NOUN Vienna; Viyana'da; 在/ADP 维也纳
    in/ADP Lisbon; in/ADP Lissabon; en/ADP Lisboa; à/ADP Lisbonne; в/ADP Лиссабоне; mjini/NOUN Lisbon; Lizbon'da; 在/ADP 里斯本
""")  # noqa: E501 (one row a line)
# English training sets take the first half, the target tests the other, so that no test sentence was trained on
TRAIN_PLACES, TEST_PLACES = PLACES[:6], PLACES[6:]

TIMES = _table("""
    every/DET morning; jeden/DET Morgen; cada/DET mañana; chaque/DET matin; каждое/DET утро; kila/DET asubuhi; her/DET sabah; 每/DET 天 早上
    every/DET evening; jeden/DET Abend; cada/DET tarde; chaque/DET soir; каждый/DET вечер; kila/DET jioni; her/DET akşam; 每/DET 天 晚上
    every/DET Monday/PROPN; jeden/DET Montag; cada/DET lunes; chaque/DET lundi; каждый/DET понедельник; kila/DET Jumatatu; her/DET pazartesi; 每/DET 个 星期一
    every/DET summer; jeden/DET Sommer; cada/DET verano; chaque/DET été; каждое/DET лето; kila/DET kiangazi; her/DET yaz; 每/DET 年 夏天
    every/DET week; jede/DET Woche; cada/DET semana; chaque/DET semaine; каждую/DET неделю; kila/DET wiki; her/DET hafta; 每/DET 个 星期
    every/DET day; jeden/DET Tag; cada/DET día; chaque/DET jour; каждый/DET день; kila/DET siku; her/DET gün; 每/DET 天
""")  # noqa: E501 (one row a line)

# things one may say of anybody, which follow from none of the actions above
PREDICATES = _table("""
    loves music/NOUN; liebt Musik/NOUN; ama la/DET música/NOUN; aime la/DET musique/NOUN; любит музыку/NOUN; hupenda muziki/NOUN; müziği/NOUN sever; 热爱 音乐/NOUN
    learns Spanish/PROPN; lernt Spanisch/NOUN; aprende español/NOUN; apprend l'/DET espagnol/NOUN; учит испанский/ADJ язык/NOUN; hujifunza Kihispania/NOUN; İspanyolca/NOUN öğreniyor; 在/ADV 学 西班牙语/NOUN
    lives with/ADP friends/NOUN; lebt mit/ADP Freunden/NOUN; vive con/ADP amigos/NOUN; vit avec/ADP des/DET amis/NOUN; живёт с/ADP друзьями/NOUN; huishi na/ADP marafiki/NOUN; arkadaşlarıyla/NOUN yaşıyor; 和/ADP 朋友/NOUN 一起/ADV 住
    wants to/PART travel; will/AUX reisen; quiere viajar; veut voyager; хочет путешествовать; hutaka kusafiri; seyahat/NOUN etmek istiyor; 想 去 旅行
    sings well/ADV; singt gut/ADV; canta bien/ADV; chante bien/ADV; хорошо/ADV поёт; huimba vizuri/ADV; iyi/ADV şarkı/NOUN söyler; 唱歌 唱 得/PART 很/ADV 好/ADJ
""")  # noqa: E501 (one row a line)

# word order. Capitals are slots: N name, V verb (V1, V2: its other forms), O object, -O the object as French and
# Chinese have it after a negation, P place, T time, X predicate, C company.
ORDERS = {
    "event": dict(zip(LANGUAGES, (
        "N V O P T", "N V T P O", "N V O P T", "N V O P T", "N T V O P", "N V O P T", "N T P O V", "N T P V O",
    ), strict=True)),
    "fronted": dict(zip(LANGUAGES, (
        "T N V O P", "T V N P O", "T N V O P", "T ,/PUNCT N V O P", "T N V O P", "T N V O P", "T N P O V", "T N P V O",
    ), strict=True)),
    "short": dict(zip(LANGUAGES, (
        "N V O", "N V O", "N V O", "N V O", "N V O", "N V O", "N O V", "N V O",
    ), strict=True)),
    "never": dict(zip(LANGUAGES, (
        "N never/ADV V O", "N V nie/ADV O", "N nunca/ADV V O", "N ne/ADV V jamais/ADV -O", "N никогда/ADV не/PART V O",
        "N V1 O kamwe/ADV", "N asla/ADV O V1", "N 从/ADV 不/ADV V -O",
    ), strict=True)),
    "never there": dict(zip(LANGUAGES, (
        "N never/ADV V O P", "N V P nie/ADV O", "N nunca/ADV V O P", "N ne/ADV V jamais/ADV -O P",
        "N никогда/ADV не/PART V O P", "N V1 O P kamwe/ADV", "N P asla/ADV O V1", "N 从/ADV 不/ADV P V -O",
    ), strict=True)),
    "someone": dict(zip(LANGUAGES, (
        "someone/PRON V O P", "jemand/PRON V P O", "alguien/PRON V O P", "quelqu'un/PRON V O P", "кто-то/PRON V O P",
        "kuna/VERB mtu/NOUN V2 O P", "P biri/PRON O V", "P 有/VERB 人/NOUN V O",
    ), strict=True)),
    "nobody": dict(zip(LANGUAGES, (
        "nobody/PRON V O P", "niemand/PRON V P O", "nadie/PRON V O P", "personne/PRON ne/ADV V -O P",
        "никто/PRON не/PART V O P", "hakuna/VERB mtu/NOUN V2 O P", "P kimse/PRON O V1", "P 没有/VERB 人/NOUN V -O",
    ), strict=True)),
    "lives": dict(zip(LANGUAGES, (
        "N lives/VERB P", "N wohnt/VERB P", "N vive/VERB P", "N habite/VERB P", "N живёт/VERB P", "N huishi/VERB P",
        "N P yaşıyor/VERB", "N 住/VERB P",
    ), strict=True)),
    "works": dict(zip(LANGUAGES, (
        "N works/VERB for/ADP C P", "N arbeitet/VERB bei/ADP C P", "N trabaja/VERB para/ADP C P",
        "N travaille/VERB pour/ADP C P", "N работает/VERB в/ADP компании/NOUN C P",
        "N hufanya/VERB kazi/NOUN katika/ADP kampuni/NOUN ya/ADP C P", "N P C şirketinde/NOUN çalışır/VERB",
        "N P 的/PART C 公司/NOUN 工作/VERB",
    ), strict=True)),
    "predicate": dict.fromkeys(LANGUAGES, "N X"),
}  # fmt: skip
AND = dict(zip(LANGUAGES, ("and", "und", "y", "et", ",/PUNCT а", "na", "ve", "，/PUNCT"), strict=True))

# {B}: the verb's base form (English)
QUESTIONS = {
    "who": dict(zip(LANGUAGES, (
        "Who {V} {O}?", "Wer {V} {O}?", "¿Quién {V} {O}?", "Qui {V} {O} ?", "Кто {V} {O}?", "Nani {V} {O}?",
        "Kim {O} {V}?", "谁{V}{O}？",
    ), strict=True)),
    "what": dict(zip(LANGUAGES, (
        "What does {N} {B}?", "Was {V} {N}?", "¿Qué {V} {N}?", "Qu'est-ce que {N} {V} ?", "Что {V} {N}?",
        "{N} {V} nini?", "{N} ne {V}?", "{N}{V}什么？",
    ), strict=True)),
    "where": dict(zip(LANGUAGES, (
        "Where does {N} {B} {O}?", "Wo {V} {N} {O}?", "¿Dónde {V} {N} {O}?", "Où est-ce que {N} {V} {O} ?",
        "Где {N} {V} {O}?", "{N} {V} {O} wapi?", "{N} nerede {O} {V}?", "{N}在哪里{V}{O}？",
    ), strict=True)),
    "when": dict(zip(LANGUAGES, (
        "When does {N} {B} {O}?", "Wann {V} {N} {O}?", "¿Cuándo {V} {N} {O}?", "Quand est-ce que {N} {V} {O} ?",
        "Когда {N} {V} {O}?", "{N} {V} {O} lini?", "{N} ne zaman {O} {V}?", "{N}什么时候{V}{O}？",
    ), strict=True)),
}  # fmt: skip

PHRASES = _table("""
    Good morning.; Guten Morgen.; Buenos días.; Bonjour.; Доброе утро.; Habari za asubuhi.; Günaydın.; 早上好。
    Thank you very much.; Vielen Dank.; Muchas gracias.; Merci beaucoup.; Большое спасибо.; Asante sana.; Çok teşekkür ederim.; 非常感谢。
    Where is the station?; Wo ist der Bahnhof?; ¿Dónde está la estación?; Où est la gare ?; Где находится вокзал?; Kituo kiko wapi?; İstasyon nerede?; 车站在哪里？
    I do not understand.; Ich verstehe das nicht.; No entiendo.; Je ne comprends pas.; Я не понимаю.; Sielewi.; Anlamıyorum.; 我不明白。
    What time is it?; Wie spät ist es?; ¿Qué hora es?; Quelle heure est-il ?; Который час?; Ni saa ngapi?; Saat kaç?; 现在几点？
    It is raining today.; Heute regnet es.; Hoy llueve.; Il pleut aujourd'hui.; Сегодня идёт дождь.; Leo mvua inanyesha.; Bugün yağmur yağıyor.; 今天下雨。
    The water is cold.; Das Wasser ist kalt.; El agua está fría.; L'eau est froide.; Вода холодная.; Maji ni baridi.; Su soğuk.; 水很冷。
    We are hungry.; Wir haben Hunger.; Tenemos hambre.; Nous avons faim.; Мы голодны.; Tuna njaa.; Açız.; 我们饿了。
    My brother is a teacher.; Mein Bruder ist Lehrer.; Mi hermano es profesor.; Mon frère est professeur.; Мой брат — учитель.; Kaka yangu ni mwalimu.; Erkek kardeşim öğretmen.; 我的哥哥是老师。
    The children are playing in the garden.; Die Kinder spielen im Garten.; Los niños juegan en el jardín.; Les enfants jouent dans le jardin.; Дети играют в саду.; Watoto wanacheza bustanini.; Çocuklar bahçede oynuyor.; 孩子们在花园里玩。
    This house is very old.; Dieses Haus ist sehr alt.; Esta casa es muy vieja.; Cette maison est très vieille.; Этот дом очень старый.; Nyumba hii ni ya zamani sana.; Bu ev çok eski.; 这座房子很老。
    The train arrives at noon.; Der Zug kommt mittags an.; El tren llega al mediodía.; Le train arrive à midi.; Поезд прибывает в полдень.; Treni hufika saa sita mchana.; Tren öğlen geliyor.; 火车中午到。
    Please close the door.; Bitte schließen Sie die Tür.; Por favor, cierre la puerta.; Fermez la porte, s'il vous plaît.; Закройте, пожалуйста, дверь.; Tafadhali funga mlango.; Lütfen kapıyı kapatın.; 请关门。
    The cat is sleeping under the table.; Die Katze schläft unter dem Tisch.; El gato duerme debajo de la mesa.; Le chat dort sous la table.; Кошка спит под столом.; Paka analala chini ya meza.; Kedi masanın altında uyuyor.; 猫在桌子下面睡觉。
    See you tomorrow.; Bis morgen.; Hasta mañana.; À demain.; До завтра.; Tutaonana kesho.; Yarın görüşürüz.; 明天见。
    How much does this cost?; Wie viel kostet das?; ¿Cuánto cuesta esto?; Combien ça coûte ?; Сколько это стоит?; Hii ni bei gani?; Bu ne kadar?; 这个多少钱？
""")  # noqa: E501 (one row a line)
