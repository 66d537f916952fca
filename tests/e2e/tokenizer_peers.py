#!/usr/bin/env python3
"""Compares our tokenizer with Hugging Face's `tokenizers` on random text, id by id.

    pip install tokenizers
    tests/e2e/tokenizer_peers.py [--dump build/release/tests/tokenizer_dump] [--count 20000] [--seed 1]
    tests/e2e/tokenizer_peers.py --speed           (single thread, ratio to the library)
    tests/e2e/tokenizer_peers.py --write-fixture   (tests/fixtures/tokenizers.json)

Tokenizers of all kinds (tokenizer_kinds.py has those that are not byte-level BPE) are trained on random text, next to
models/fairytale-5m. Each gets its share of the strings: all planes of Unicode, white space, digits, contractions, combining marks, long
runs, special tokens and their halves. Then random ids are decoded. Exits 1 at the first differences.
"""

import argparse
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time
import unicodedata

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RUST_BACKTRACE"] = "0"
os.environ["RAYON_NUM_THREADS"] = "1"

from tokenizers import (  # noqa: E402
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

import tokenizer_kinds  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
FAIRYTALE = ROOT / "models" / "fairytale-5m"

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace("{1,3}", "")
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|"
    r"\s++$|\s*[\r\n]|\s+(?!\S)|\s"
)
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = [
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
]
ODD_PATTERNS = [
    r"\w+|[^\w\s]+",
    r"\b\w|\B.",
    r"(?<=\d)(?=(?:\d{3})+(?!\d))",
    r"^\s+|\s+$|\S+?(?=\s|$)",
    r"\A.|.\z|[-:]",
    r"[a-z&&[^aeiou]]+|[\h]{2,4}?|\H",
    r"(?>a+|ab)c?|x{,2}y|\x41|\x{e9}|\u0416",
    r"(a|b|)c|[^\W\d_]+",
    r"\P{L}+|\p{^Lu}",
    r"(?i:[a-fk-s]+x|z)",
    r"\p{Lu}+(?!\p{Ll})|\p{Lu}?\p{Ll}+",
    r"",
    r"(?:\p{L}\p{M}*)+|\s",
]
BEHAVIORS = ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]

# Letters, digits and marks that came with Unicode 15 and 16; what is not assigned; noncharacters.
NEW = [0x10D50, 0x10D70, 0x1C89, 0xA7CB, 0x31350, 0x2EBF0, 0x11F50, 0x1E4EC, 0x10D6A, 0x1CCF0, 0x378, 0x10FFFF, 0xFFFE]
BLOCKS = [
    (0x00, 0x7F), (0x80, 0x2AF), (0x300, 0x36F), (0x370, 0x5FF), (0x600, 0x8FF), (0x900, 0xFFF),
    (0x1100, 0x11FF), (0x1E00, 0x1FFF), (0x2000, 0x206F), (0x2100, 0x2BFF), (0x3000, 0x33FF), (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3), (0xE000, 0xE0FF), (0xF900, 0xFFFF), (0x10000, 0x1FFFF), (0x20000, 0x3FFFF), (0x0, 0x10FFFF),
]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\n\n", "\u00a0", "\u3000", "\u2003", "\x85", "\u180e", "\u200b", "\ufeff", "\x0b"]
SNIPPETS = ["'s", "'T", "'Re", "'LL", "'ve", "'ſ", "'K", "don't", "I'm", "’s", "ß", "ﬁ", "123", "1234567", "３４", "²½",
            "once upon a time", "if (x == 0) {", "café", "cafe\u0301", "한국어", "\u1112\u1161\u11ab", "😀", "👩‍👩‍👧",
            "<|endoftext|>", "<|end", "of|>", "<b>", "</b>", "<mask>", "naïve", "Å", "\u212b", "e\u0327\u0301", "_", "\x00"]


def random_char(rng):
    if rng.random() < 0.08:
        return chr(rng.choice(NEW))
    while True:
        code_point = rng.randint(*rng.choice(BLOCKS))
        if not 0xD800 <= code_point < 0xE000:
            return chr(code_point)


def random_text(rng, markers):
    parts = []
    for _ in range(rng.choice([0, 1, 2, 5, 10, 20, 40])):
        kind = rng.random()
        if kind < 0.25:
            parts.append("".join(rng.choice("etaoinshrdlu") for _ in range(rng.randint(1, 8))))
        elif kind < 0.45:
            parts.append(rng.choice(SPACES) * rng.choice([1, 1, 1, 2, 5]))
        elif kind < 0.65:
            parts.append("".join(random_char(rng) for _ in range(rng.randint(1, 6))))
        elif kind < 0.85:
            parts.append(rng.choice(SNIPPETS))
        elif kind < 0.95:
            parts.append(rng.choice(markers))
        else:
            parts.append((random_char(rng) + rng.choice(["", "a"])) * rng.choice([2, 7, 40, 300]))
    return "".join(parts)


def trained(rng, pre_tokenizer, vocab_size=700, **options):
    tokenizer = Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [random_text(rng, ["the ", " and", "1999", "\n\n"]) for _ in range(1500)]
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def splits(patterns, behavior="isolated", invert=False):
    stages = [pre_tokenizers.Split(Regex(p) if isinstance(p, str) else p[0], behavior, invert) for p in patterns]
    return pre_tokenizers.Sequence(stages + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def add_odd_tokens(tokenizer, normalized):
    """Added tokens with every combination of the flags, some inside others."""
    contents = ["<b>", "</b>", "<mask>", "<m", "  ", "Ġ", "é", "cafe\u0301", "naïve", "\u212b", "x", "ab", "abc", "<|im_start|>"]
    for i, content in enumerate(contents):
        tokenizer.add_tokens(
            [
                AddedToken(
                    content,
                    single_word=i % 5 == 0,
                    lstrip=i % 2 == 0,
                    rstrip=i % 3 == 0,
                    normalized=normalized and i % 4 < 2,
                    special=False,
                )
            ]
        )
    for i, content in enumerate(["<|special one|>", "\n\n", "日本"]):
        tokenizer.add_special_tokens(
            [AddedToken(content, lstrip=i == 1, rstrip=i == 2, normalized=normalized and i == 0, special=True)]
        )
    return contents


def tweak(tokenizer, change):
    """The same tokenizer after a change of its JSON."""
    document = json.loads(tokenizer.to_str())
    change(document)
    return Tokenizer.from_str(json.dumps(document))


def without_bytes(unk, fuse):
    """Takes some bytes out of the vocabulary, with all merges that need them."""

    def change(document):
        model = document["model"]
        gone = set("eĠÃ©")
        vocab = [t for t in model["vocab"] if not gone & set(t)]
        if unk:
            vocab.append("<unk>")
        model["vocab"] = {token: i for i, token in enumerate(vocab)}
        kept = model["vocab"]
        model["merges"] = [m for m in model["merges"] if all(t in kept for t in (*m, "".join(m)))]
        model["unk_token"] = "<unk>" if unk else None
        model["fuse_unk"] = fuse
        document["added_tokens"] = []

    return change


def peers(rng, vocab_size=700):
    """(name, tokenizer)"""

    def train(pre_tokenizer):
        return trained(rng, pre_tokenizer, vocab_size)

    byte_level = pre_tokenizers.ByteLevel
    yield "fairytale-5m", Tokenizer.from_file(str(FAIRYTALE / "tokenizer.json"))
    yield "gpt2", train(byte_level(add_prefix_space=False))
    prefixed = train(byte_level(add_prefix_space=True))
    prefixed.post_processor = processors.ByteLevel(trim_offsets=True)
    add_odd_tokens(prefixed, True)
    yield "gpt2 with prefix", prefixed
    llama = tweak(train(splits([LLAMA3])), lambda d: d["model"].update(ignore_merges=True))
    llama.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(
                single="<|endoftext|> $A t", pair="$A $B", special_tokens=[("<|endoftext|>", 0), ("t", 5)]
            ),
        ]
    )
    yield "llama3", llama
    qwen = train(splits([QWEN2]))
    qwen.normalizer = normalizers.NFC()
    add_odd_tokens(qwen, True)
    yield "qwen2", qwen
    qwen35 = train(splits([QWEN35]))
    qwen35.normalizer = normalizers.NFC()
    yield "qwen3.5", qwen35
    yield "cl100k", train(splits([CL100K]))
    yield "o200k", train(splits([O200K]))
    yield "deepseek", train(splits(DEEPSEEK))
    yield "bytes of the whole", train(byte_level(add_prefix_space=False, use_regex=False))
    small = train(splits([LLAMA3]))
    yield "no unk", tweak(small, without_bytes(False, False))
    yield "unk", tweak(small, without_bytes(True, False))
    yield "fused unk", tweak(small, without_bytes(True, True))
    yield "legacy merges", tweak(
        small, lambda d: d["model"].update(merges=["#version: 0.2"] + [" ".join(m) for m in d["model"]["merges"]])
    )
    yield "prefix and split", trained(
        rng, pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\d"), "isolated"), byte_level(add_prefix_space=True)])
    )
    for i, pattern in enumerate(ODD_PATTERNS):
        behavior, invert = BEHAVIORS[i % 5], i % 2 == 1
        yield f"odd {pattern!r} {behavior} {invert}", train(splits([pattern], behavior, invert))
    for behavior in BEHAVIORS:
        for invert in [False, True]:
            for pattern in [r"\s+", (" ",)]:
                name = f"{pattern!r} {behavior} {invert}"
                yield name, train(splits([pattern], behavior, invert))


def everyone(seed, vocab_size=700):
    """(name, tokenizer): byte-level BPE, other styles, single parts."""
    rng = random.Random(seed)
    yield from peers(rng, vocab_size)
    kinds = tokenizer_kinds.Kinds(rng, random_text, vocab_size)
    yield from kinds.styles()
    yield from kinds.parts()


FIXTURE = [
    ("gpt2", 20), ("gpt2 with prefix", 60), ("llama3", 20), ("qwen2", 60), ("cl100k", 20), ("o200k", 20),
    ("deepseek", 20), ("no unk", 10), ("unk", 10), ("fused unk", 10), ("legacy merges", 5), ("prefix and split", 10),
]


def write_fixture():
    """Small tokenizers with what the library makes of some texts and ids."""
    rng = random.Random(11)
    counts = dict(FIXTURE)
    byte_level = [(name, t, counts.get(name, 6)) for name, t in peers(rng, 300) if name != "fairytale-5m"]
    write_cases("tokenizers.json", byte_level, rng)
    tokenizer_kinds.nmt_nfkc = lambda: tokenizer_kinds.charsmap.build(tokenizer_kinds.SMALL_CHARSMAP)
    kinds = tokenizer_kinds.Kinds(rng, random_text, 240)
    write_cases("tokenizer_styles.json", [(name, t, 24) for name, t in kinds.styles()], rng)
    write_cases("tokenizer_parts.json", [(name, t, 10) for name, t in kinds.parts()], rng)


def write_cases(file_name, tokenizers, rng):
    entries, models = [], []
    for name, tokenizer, count in tokenizers:
        requests = make_requests(tokenizer, 3 * count, rng)
        cases = [{**request, **{"expected": expected(tokenizer, request)}} for request in requests]
        cases = [c for c in cases if c["expected"] and len(json.dumps(c)) < 600][: count + count // 4]
        document = json.loads(tokenizer.to_str())
        models.append(document["model"])
        entry = {"name": name, "tokenizer": document, "cases": cases}
        first = models.index(document["model"])
        if first != len(models) - 1:  # many parts are shown with one model
            document["model"] = None
            entry["model_of"] = first
        entries.append(entry)
    lines = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in entries)
    (ROOT / "tests/fixtures" / file_name).write_text("[\n" + lines + "\n]\n")


def ask(dump, tokenizer_json, requests):
    with tempfile.TemporaryDirectory() as folder:
        pathlib.Path(folder, "tokenizer.json").write_text(tokenizer_json)
        lines = "".join(json.dumps(request) + "\n" for request in requests)
        done = subprocess.run([dump, folder], input=lines, capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{dump}: {done.stderr}")
    return [json.loads(line) for line in done.stdout.split("\n")[:-1]]


def expected(tokenizer, request):
    """None where the library panics: it does where a token is stripped of all that it matched."""
    try:
        return answer_of(tokenizer, request)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return None


def answer_of(tokenizer, request):
    if "text" in request:
        tokenizer.encode_special_tokens = not request["parse_special_tokens"]
        return {"ids": tokenizer.encode(request["text"], add_special_tokens=request["add_special_tokens"]).ids}
    text = tokenizer.decode(request["ids"], skip_special_tokens=request["skip_special_tokens"])
    return {"text": text, "stream": text}


def make_requests(tokenizer, count, rng):
    size = max(tokenizer.get_vocab().values()) + 1
    markers = [t.content for t in tokenizer.get_added_tokens_decoder().values()] or ["<|endoftext|>"]
    requests = []
    for i in range(count):
        requests.append(
            {
                "text": random_text(rng, markers),
                "add_special_tokens": rng.random() < 0.7,
                "parse_special_tokens": rng.random() < 0.7,
            }
        )
        if i % 4 == 0:
            ids = [rng.randrange(size) if rng.random() < 0.5 else rng.randrange(min(size, 260)) for _ in range(i % 61)]
            requests.append({"ids": ids, "skip_special_tokens": i % 8 == 0})
    return requests


def compare(dump, name, tokenizer, count, rng):
    requests = make_requests(tokenizer, count, rng)
    answers = ask(dump, tokenizer.to_str(), requests)
    different = 0
    for request, answer in zip(requests, answers, strict=True):
        wanted = expected(tokenizer, request)
        if wanted is not None and answer != wanted:
            different += 1
            if different <= 3:
                print(f"{name}: {json.dumps(request)}\n  wanted {json.dumps(wanted)}\n  got    {json.dumps(answer)}")
    print(f"{name}: {len(requests)} requests, {different} differ", flush=True)
    return different


def measure(dump, only):
    """Millions of bytes a second of both, one thread each; for the hostile texts also whether time grows with length."""
    rng = random.Random(7)
    cases = json.loads((ROOT / "tests/fixtures/fairytale-5m/tokenizer_cases.json").read_text())
    english = " ".join(case["text"] for case in cases)
    words = [w for w in english.split() if w.isascii()] + "the a of and to in he was that it his her you they with said".split()
    fairytale = Tokenizer.from_file(str(FAIRYTALE / "tokenizer.json"))
    reference = json.loads((ROOT / "tests/fixtures/fairytale-5m/reference.json").read_text())
    size = 1 << 20
    texts = {
        "English": " ".join(rng.choice(words) + rng.choice(["", "", "", ",", ".\n"]) for _ in range(200_000)),
        "fairy tale": fairytale.decode(reference[-1]["document_token_ids"]) * 200,
        "all planes": "".join(random_text(rng, ["x"]) for _ in range(3000)),
        "letters": "a" * size,
        "spaces": " " * size,
        "marks": "\u0301" * (size // 2),
        "unknown": "\U0010fffd" * (size // 4),
    }
    chosen = [("fairytale-5m", fairytale)] + list(tokenizer_kinds.Kinds(rng, random_text, 4000).styles())
    for name, tokenizer in chosen:
        if re.search(only, name):
            for text_name, text in texts.items():
                measure_one(dump, f"{name}, {text_name}", tokenizer, text)


def measure_one(dump, name, tokenizer, text):
    size = len(text.encode())
    seconds = []
    for part in [text[: len(text) // 2], text]:
        with tempfile.NamedTemporaryFile("w", suffix=".txt", newline="") as file:
            file.write(part)
            file.flush()
            request = {"encode_file": file.name, "repeat": 3}
            answer = ask(dump, tokenizer.to_str(), [request])[0]
        seconds.append(answer["seconds"] / request["repeat"])
    start = time.perf_counter()
    ids = tokenizer.encode(text).ids
    theirs = time.perf_counter() - start
    same = len(ids) * 3 == answer["tokens"]
    ours = seconds[1]
    print(
        f"{name}: {size} bytes, {len(ids)} tokens{'' if same else ' OF OTHER NUMBER'}, {size / ours / 1e6:.1f} MB/s, tokenizers "
        f"{size / theirs / 1e6:.1f} MB/s, ratio {theirs / ours:.1f}; twice the text takes {ours / seconds[0]:.1f} times as long",
        flush=True,
    )  # fmt: skip


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dump", default=str(ROOT / "build/release/tests/tokenizer_dump"))
    parser.add_argument("--count", type=int, default=20000, help="strings in all")
    parser.add_argument("--each", type=int, default=0, help="strings for each tokenizer, in place of --count")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="a pattern for the names of tokenizers")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--write-fixture", action="store_true")
    options = parser.parse_args()
    if options.write_fixture:
        return write_fixture()
    if options.speed:
        return measure(options.dump, options.only)
    rng = random.Random(options.seed)
    chosen = [(name, tokenizer) for name, tokenizer in everyone(options.seed) if re.search(options.only, name)]
    share = options.each or -(-options.count // len(chosen))
    different = sum(compare(options.dump, name, tokenizer, share, rng) for name, tokenizer in chosen)
    print(f"{share * len(chosen)} strings, {len(chosen)} tokenizers: {different} differ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
