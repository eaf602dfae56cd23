"""The texts of the sample world: posts of users and texts of items, put together from lists of words."""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_WORDS = 16  # of a post
_LINES = 11  # of a topic in the word list


@dataclass(frozen=True)
class Topic:
    """One topic."""

    name: str
    facets: tuple[tuple[str, ...], ...]  # five of five words
    posts: tuple[str, ...]
    texts: tuple[str, ...]
    chinese: tuple[str, ...]  # one for each facet


def topics() -> tuple[Topic, ...]:
    """Return the twelve topics."""
    lines = [line.strip() for line in TOPICS.strip().split("\n")]
    return tuple(_topic(lines[start : start + _LINES]) for start in range(0, len(lines), _LINES))


def english_item(topic: Topic, facet: int, kind: str, draw: Sequence[int]) -> tuple[str, str]:
    """Return title and text of an item; `draw` holds six numbers that choose the words."""
    slots = _slots(topic, facet, draw)
    title = _sentence(_pick(TITLES[kind], draw[3]), slots)
    text = _sentence(_pick(topic.texts, draw[4]), slots)
    return title, f"{text} {_sentence(_pick(ITEM_CLOSERS, draw[5]), slots)}"


def chinese_item(topic: Topic, facet: int, kind: str, number: int, draw: Sequence[int]) -> tuple[str, str]:
    """Return a Chinese title, made unique by `number`, and text of an item."""
    phrase = topic.chinese[facet]
    title = CHINESE_TITLES[kind].format(p=phrase, n=number)
    return title, _pick(CHINESE_TEXTS, draw[0]).format(p=phrase)


def english_post(topic: Topic, facet: int, draw: Sequence[int]) -> str:
    """Return a sentence of at most MAX_WORDS words; `draw` holds six numbers that choose them."""
    slots = _slots(topic, facet, draw)
    said = f"{_pick(OPENERS, draw[3])} {_pick(topic.posts, draw[4])}"
    full = _sentence(f"{said}, {_pick(CLOSERS, draw[5])}", slots)
    return full if len(full.split()) <= MAX_WORDS else _sentence(f"{said}.", slots)


def chinese_post(topic: Topic, facet: int, draw: Sequence[int]) -> str:
    """Return a Chinese sentence; `draw` holds numbers that choose its ends."""
    return _pick(CHINESE_OPENERS, draw[0]) + topic.chinese[facet] + _pick(CHINESE_CLOSERS, draw[1])


def _topic(lines: Sequence[str]) -> Topic:
    return Topic(
        name=lines[0],
        facets=tuple(tuple(line.split(", ")) for line in lines[1:6]),
        posts=tuple(lines[6:9]),
        texts=tuple(lines[9].split(" | ")),
        chinese=tuple(lines[10].split(" | ")),
    )


def _pick(choices: Sequence[str], draw: int) -> str:
    return choices[draw % len(choices)]


def _slots(topic: Topic, facet: int, draw: Sequence[int]) -> dict[str, str]:
    """Return three different words: a and b of the facet, c of another one."""
    a, b = draw[0] % 5, (draw[0] % 5 + 1 + draw[1] % 4) % 5
    c = topic.facets[(facet + 1 + draw[2] % 4) % 5][draw[2] // 4 % 5]
    return {"a": topic.facets[facet][a], "b": topic.facets[facet][b], "c": c}


def _sentence(pattern: str, slots: dict[str, str]) -> str:
    filled = pattern.format(**slots)
    return filled[0].upper() + filled[1:]


"""The words of the sample world: twelve topics of five facets each, and sentences to put the words in."""

# A topic is eleven lines: its name, five facets of five words, three things a user did ("Last night I ..."),
# what an item tells, and one Chinese verb phrase for each facet. {a} and {b} are words of one facet.
TOPICS = """
cooking
  sourdough, rye bread, levain, brioche, focaccia
  beef stew, pot roast, lamb shank, bone broth, ragout
  miso soup, ramen, tempura, dumplings, sushi rice
  roast peppers, chickpeas, lentil curry, tofu, aubergine
  lemon tart, custard, meringue, chocolate mousse, pastry
  cooked {a} with {b} for six guests
  baked {a} next to a pan of {b}
  seasoned {a}, then tasted {b}
  A recipe for {a} served with {b}. | How to season {a}, with {b} on the side.
  烤一个酸面包 | 慢炖一锅牛肉 | 包饺子配味噌汤 | 做鹰嘴豆素咖喱 | 烤柠檬挞做甜点
astronomy
  Jupiter, Saturn, Mars, the rings, the moons
  galaxies, nebulae, the Milky Way, star clusters, Andromeda
  refractor telescopes, eyepieces, equatorial mounts, star trackers, finder scopes
  black holes, neutron stars, supernovae, pulsars, gravitational waves
  meteor showers, comets, eclipses, auroras, asteroids
  sketched {a} beside {b}
  read about {a} and dreamt of {b}
  compared {a} with {b} in the dark
  An observer's notes on {a} and {b}. | Where to find {a} tonight, and why {b} matter.
  用望远镜看土星光环 | 在山顶拍银河星云 | 给赤道仪对准北极星 | 读懂黑洞和中子星 | 等一场流星雨
cycling
  road bikes, carbon wheels, drop bars, aero frames, clipless pedals
  gravel tracks, bikepacking, panniers, forest roads, a handlebar bag
  mountain bikes, downhill trails, suspension forks, berms, dropper posts
  a bottom bracket, derailleurs, brake pads, chain lube, spokes
  alpine climbs, criteriums, time trials, the peloton, sprint finishes
  rode past {a} and thought about {b}
  spent the ride on {a} and {b}
  tested {a} against {b} over forty kilometres
  Everything riders ask about {a} and {b}. | Choosing {a} when {b} are on your mind.
  骑公路车刷环湖路线 | 带驮包骑砂石路旅行 | 骑山地车冲下坡 | 给自行车换刹车和链条 | 骑车爬高山坡
jazz
  bebop, hard bop, fast changes, walking bass, ride cymbals
  big bands, swing, brass sections, ballroom charts, clarinet solos
  modal jazz, cool jazz, muted trumpets, slow ballads, piano trios
  jazz fusion, electric pianos, odd meters, synth leads, funk grooves
  bossa nova, samba, nylon guitars, latin percussion, soft vocals
  practised {a} and transcribed {b}
  heard a club set of {a} and {b}
  put on a record full of {a} and {b}
  A listening guide to {a} and {b}. | What musicians mean by {a}, told through {b}.
  听一张比波普唱片 | 跟大乐队排练摇摆乐 | 在夜里听冷爵士小号 | 弹一段融合爵士键盘 | 用吉他弹波萨诺瓦
gardening
  tomatoes, courgettes, runner beans, kale, raised beds
  roses, peonies, dahlias, lavender, flower borders
  compost, mulch, worm bins, leaf mould, soil tests
  apple trees, espaliers, grafting, berry bushes, winter pruning
  ferns, succulents, orchids, monsteras, a terrarium
  planted {a} and moved {b}
  looked after {a} while {b} came along
  watered {a} and gave some time to {b}
  Season by season with {a} and {b}. | How to care for {a} where {b} do well.
  在阳台种番茄和豆角 | 修剪月季和牡丹 | 用厨余堆肥养土 | 给苹果树嫁接剪枝 | 养多肉和蕨类盆栽
chess
  the Sicilian, the Caro-Kann, gambits, opening theory, the Ruy Lopez
  rook endgames, opposition, passed pawns, zugzwang, fortress draws
  forks, pins, skewers, mating nets, queen sacrifices
  blitz, bullet, time scrambles, online arenas, premoves
  outposts, pawn chains, bishop pairs, weak squares, prophylaxis
  studied {a} and fell for {b}
  lost a game over {a} despite {b}
  reviewed {a} with a coach who loves {b}
  Annotated games about {a} and {b}. | Exercises on {a}, then on {b}.
  研究西西里防御开局 | 练习车兵残局 | 做双重攻击战术题 | 下几盘超快棋 | 学习兵链和弱格
film
  film noir, femme fatales, low-key light, crime thrillers, voice-overs
  anime, stop motion, cel animation, storyboards, puppet films
  westerns, samurai epics, war dramas, sword fights, desert landscapes
  documentaries, interviews, archive footage, essay films, verite cameras
  horror, haunted houses, slashers, practical effects, jump scares
  saw a double bill of {a} and {b}
  argued with friends about {a} and {b}
  rewatched a classic for {a} and {b}
  An introduction to {a} by way of {b}. | Directors talk about {a} and {b}.
  看一部黑色电影 | 看定格动画短片 | 重温武士和西部片 | 看一部纪录片 | 深夜看恐怖片
hiking
  ridge walks, summits, scrambles, cairns, alpine huts
  long-distance trails, resupply towns, thru-hikes, trail magic, zero days
  ultralight tents, down quilts, trekking poles, water filters, backpacks
  coastal paths, cliffs, tidal flats, lighthouses, sea stacks
  snowshoes, crampons, avalanche gear, winter camps, frozen lakes
  walked all day for {a} and {b}
  planned a route around {a} and {b}
  got rained on among {a} and {b}
  A walker's guide to {a} and {b}. | Packing and planning for {a}, with {b}.
  沿山脊登顶看日出 | 走一条长距离步道 | 背轻量帐篷露营 | 沿海岸悬崖徒步 | 穿雪鞋走冬季山路
photography
  street portraits, candid moments, city shadows, zone focus, rangefinders
  35mm film, darkroom prints, developer, contact sheets, grain
  birds in flight, telephoto lenses, hides, animal portraits, tracking focus
  long exposures, tripods, golden hour, neutral filters, seascapes
  studio flash, softboxes, product shots, backdrops, color charts
  shot a whole series with {a} and {b}
  learned more about {a} than {b}
  edited pictures of {a} and {b}
  A workshop on {a} and {b}. | Better pictures through {a}, with tips on {b}.
  上街拍人像抓拍 | 在暗房冲洗胶片 | 用长焦镜头拍飞鸟 | 架三脚架拍日落长曝光 | 在影棚布光拍产品
woodworking
  dovetails, mortises, tenons, box joints, hand-cut joinery
  hand planes, chisels, marking gauges, sharpening stones, card scrapers
  the lathe, turned bowls, spindles, gouges, green wood
  oak tables, walnut chairs, bookcases, workbenches, drawers
  shellac, oil finishes, milk paint, beeswax, sanding
  made progress on {a} and ruined {b}
  spent hours on {a}, minutes on {b}
  asked a joiner about {a} and {b}
  Plans and photographs for {a} and {b}. | Master {a} before {b}, step by step.
  手工凿燕尾榫 | 磨刨刀和凿子 | 在车床上车木碗 | 打一张橡木桌 | 给木器上油打蜡
history
  Roman legions, aqueducts, the Senate, emperors, mosaics
  medieval castles, knights, monasteries, guilds, the plague
  the Silk Road, caravans, Tang dynasty courts, porcelain, spice trade
  steam engines, cotton mills, railways, coal towns, trade unions
  codebreakers, wartime letters, air raids, convoys, armistice talks
  read a thick book about {a} and {b}
  visited a museum on {a} and {b}
  found an old map showing {a} and {b}
  The story of {a} and {b}, from the sources. | How {a} shaped daily life, and {b} after it.
  读罗马军团和元老院的历史 | 参观中世纪城堡 | 了解丝绸之路和瓷器贸易 | 研究蒸汽机与铁路 | 读战时密码破译的故事
coding
  Rust, borrow checkers, lifetimes, systems code, zero-cost abstractions
  neural networks, gradient descent, embeddings, transformers, GPUs
  SQL queries, indexes, query planners, transactions, replication
  web frontends, type systems, components, stylesheets, browser caches
  compilers, parsers, garbage collectors, bytecode, virtual machines
  debugged {a} and refactored {b}
  gave a talk on {a} and {b}
  wrote a small library around {a} and {b}
  A hands-on tutorial on {a} and {b}. | Understanding {a} by building {b}.
  用Rust写系统程序 | 训练一个神经网络 | 优化SQL查询和索引 | 写网页前端组件 | 写一个编译器和虚拟机
"""

# fmt: off
OPENERS = (
    "This weekend I", "Last night I", "Finally I", "After work we", "On Sunday we two", "Yesterday I",
    "On a slow day I", "With an old friend I", "Before breakfast I", "All of spring I", "For once I",
)
CLOSERS = (  # {c} is any word of the topic
    "and after that, {c}.", "and want more of {c}.", "which reminded me of {c}.", "but {c} can wait.",
    "and now I dream of {c}.", "so please recommend {c}.",
)
TITLES = {
    "article": ("A practical guide to {a}", "What nobody tells you about {a}", "Notes on {a} and {c}"),
    "product": ("The illustrated handbook of {a}", "Starter set: {a}", "Pocket companion to {a} and {c}"),
    "video": ("Watch: {a} up close", "{a} in twenty minutes", "On camera: {a} and {c}"),
}
ITEM_CLOSERS = (
    "With a chapter on {c}.", "For beginners who already like {c}.", "Includes exercises and {c}.",
    "Short, friendly, and honest about {c}.",
)
CHINESE_OPENERS = (
    "这个周末我又去", "昨晚下班以后我终于", "和老朋友一起", "放假的时候我最喜欢", "最近几个月我一直想",
    "今年的心愿就是",
)
CHINESE_CLOSERS = ("，感觉特别充实。", "，还想再来一次。", "，学到了不少东西。", "，大家有什么推荐吗？")
CHINESE_TITLES = {
    "article": "图文：{p}（第{n}期）",
    "product": "套装：{p}（第{n}版）",
    "video": "视频：{p}（第{n}集）",
}
CHINESE_TEXTS = ("一步一步教你{p}，适合初学者。", "资深爱好者谈如何{p}。", "怎样{p}？这里有清单和常见错误。")
# fmt: on
