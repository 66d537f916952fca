"""The tokenizers beside byte-level BPE that tokenizer_peers.py compares: trained here, in the styles of known models,
and every normalizer, pre-tokenizer and decoder in turn."""

import io
import json

import charsmap
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
SPECIALS = ["<unk>", "<s>", "</s>"]
SMALL_CHARSMAP = {
    "\t": " ", "\n": " ", "\r": " ", "\u00a0": " ", "\u3000": " ", "\u200b": "", "\u00ad": "", "ﬁ": "fi", "™": "TM", "½": "1/2",
    "A": "a", "B": "b", "e\u0301": "é", "①": "1", "ａ": "a", "ｂ": "b", "각": "각", "ㄱ": "ᄀ", "²": "2", "\u0345": "ι", "ab": "X",
}  # fmt: skip


def nmt_nfkc():
    """SentencePiece's own map, or a small one where that is not installed."""
    try:
        import sentencepiece
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:
        return charsmap.build(SMALL_CHARSMAP)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the quick brown fox"] * 20), model_writer=model, vocab_size=20, hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    proto = sentencepiece_model_pb2.ModelProto.FromString(model.getvalue())
    return proto.normalizer_spec.precompiled_charsmap


def edited(tokenizer, change):
    document = json.loads(tokenizer.to_str())
    change(document)
    return Tokenizer.from_str(json.dumps(document))


def with_specials(tokenizer, tokens, **flags):
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False, **flags) for token in tokens])
    return tokenizer


class Kinds:
    def __init__(self, rng, random_text, vocab_size=700):
        self.rng = rng
        self.vocab_size = vocab_size
        self.trained = {}  # training takes longer than comparing
        self.texts = [random_text(rng, ["the ", " and", "1999", "\n\n"]) for _ in range(1500)]

    def train(self, model, trainer, pre_tokenizer, normalizer=None):
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre_tokenizer
        tokenizer.train_from_iterator(self.texts, trainer)
        return tokenizer

    def bpe(self, normalizer, pre_tokenizer, byte_fallback=True, specials=SPECIALS, **options):
        """Trained on words, whatever the pre-tokenizer is in the end."""
        key = json.dumps(["bpe", byte_fallback, specials, options])
        if key not in self.trained:
            self.trained[key] = self.new_bpe(byte_fallback, specials, options)
        tokenizer = Tokenizer.from_str(self.trained[key])
        tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre_tokenizer
        return tokenizer

    def new_bpe(self, byte_fallback, specials, options):
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size + (256 if byte_fallback else 0),
            special_tokens=specials + (BYTES if byte_fallback else []),
            limit_alphabet=120,
            show_progress=False,
            **({"end_of_word_suffix": options["end_of_word_suffix"]} if "end_of_word_suffix" in options else {}),
            **({"continuing_subword_prefix": options["continuing_subword_prefix"]} if "continuing_subword_prefix" in options else {}),
        )  # fmt: skip
        model = models.BPE(unk_token="<unk>" if "<unk>" in specials else None, byte_fallback=byte_fallback, **options)
        tokenizer = self.train(model, trainer, pre_tokenizers.Metaspace())
        # Bytes are no added tokens in the models that have them.
        return edited(
            tokenizer, lambda d: d.update(added_tokens=[t for t in d["added_tokens"] if t["content"] not in BYTES])
        ).to_str()

    def unigram(self, normalizer, pre_tokenizer, byte_fallback=False, specials=SPECIALS):
        key = json.dumps(["unigram", byte_fallback, specials])
        if key not in self.trained:
            self.trained[key] = self.new_unigram(byte_fallback, specials)
        tokenizer = Tokenizer.from_str(self.trained[key])
        tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre_tokenizer
        return tokenizer

    def new_unigram(self, byte_fallback, specials):
        trainer = trainers.UnigramTrainer(
            vocab_size=self.vocab_size, special_tokens=specials, unk_token="<unk>", show_progress=False
        )
        end = chr(self.vocab_size // 2)  # all characters become tokens
        few = ["".join(c for c in text if c < end) for text in self.texts]
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.train_from_iterator(few, trainer)

        def add_bytes(document):
            vocab = document["model"]["vocab"]
            document["model"]["vocab"] = vocab[:3] + [[b, 0.0] for b in BYTES] + vocab[3:]
            document["model"]["byte_fallback"] = True

        return (edited(tokenizer, add_bytes) if byte_fallback else tokenizer).to_str()

    def word_piece(self, normalizer, pre_tokenizer, **options):
        specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
        trainer = trainers.WordPieceTrainer(
            vocab_size=self.vocab_size, special_tokens=specials, limit_alphabet=150, show_progress=False
        )
        tokenizer = self.train(models.WordPiece(unk_token="[UNK]", **options), trainer, pre_tokenizer, normalizer)
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        return tokenizer

    def characters(self, normalizer):
        """Shows a normalized text byte by byte."""
        vocab = {token: i for i, token in enumerate(SPECIALS + BYTES)}
        tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
        tokenizer.normalizer = normalizer
        tokenizer.decoder = decoders.ByteFallback()
        return tokenizer

    # Styles of known models.

    def llama2(self, **options):
        tokenizer = self.bpe(
            normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None, fuse_unk=True, **options
        )
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
        tokenizer.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
        return with_specials(tokenizer, SPECIALS)

    def mistral(self):
        tokenizer = self.bpe(None, pre_tokenizers.Metaspace("▁", "first", False), fuse_unk=True)
        tokenizer.decoder = self.llama2().decoder
        tokenizer.add_tokens([AddedToken("[INST]", special=True, normalized=False), AddedToken("[/INST]", normalized=False)])
        return with_specials(tokenizer, SPECIALS)

    def gemma(self):
        tokenizer = self.bpe(
            normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous"), fuse_unk=True, ignore_merges=True
        )
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
        tokenizer.add_tokens([AddedToken(t, normalized=False) for t in ["\n\n", "▁▁", "<start_of_turn>", "<b>", "</b>"]])
        return with_specials(tokenizer, SPECIALS)

    def t5(self, scheme="always", charsmap_bytes=None):
        normalizer = normalizers.Precompiled(charsmap_bytes or nmt_nfkc())
        tokenizer = self.unigram(normalizer, pre_tokenizers.Metaspace("▁", scheme))
        tokenizer.decoder = decoders.Metaspace("▁", scheme)
        tokenizer.post_processor = processors.TemplateProcessing("$A </s>", "$A </s> $B </s>", [("</s>", 2)])
        return with_specials(tokenizer, SPECIALS + ["<extra_id_0>", "<extra_id_1>"], lstrip=True, rstrip=True)

    def xlm_roberta(self):
        tokenizer = self.unigram(
            normalizers.Sequence(
                [normalizers.Precompiled(nmt_nfkc()), normalizers.Strip(False, True), normalizers.Replace(Regex(" {2,}"), "▁")]
            ),
            pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace("▁", "always")]),
        )
        tokenizer.decoder = decoders.Metaspace()
        tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=True)])
        return with_specials(tokenizer, SPECIALS)

    def albert(self):
        steps = [normalizers.Replace("``", '"'), normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]
        tokenizer = self.unigram(normalizers.Sequence(steps), pre_tokenizers.Metaspace(), byte_fallback=True)
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
        tokenizer.add_tokens(["Café", AddedToken("X y", normalized=True, single_word=True)])
        return with_specials(tokenizer, SPECIALS)

    def bert(self, **options):
        tokenizer = self.word_piece(normalizers.BertNormalizer(**options), pre_tokenizers.BertPreTokenizer())
        tokenizer.decoder = decoders.WordPiece()
        return tokenizer

    def roberta(self):
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        specials = ["<s>", "<pad>", "</s>", "<unk>"]
        tokenizer.train_from_iterator(
            self.texts, trainers.BpeTrainer(vocab_size=self.vocab_size, special_tokens=specials, show_progress=False,
                                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))  # fmt: skip
        tokenizer.decoder = decoders.ByteLevel()
        tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
        tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
        return tokenizer

    def clip(self):
        tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
        )
        pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(pattern), "removed", invert=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        trainer = trainers.BpeTrainer(vocab_size=self.vocab_size, special_tokens=["<|endoftext|>"], show_progress=False,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), end_of_word_suffix="</w>")  # fmt: skip
        tokenizer.train_from_iterator(self.texts, trainer)
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer

    def gpt1(self):
        tokenizer = self.bpe(
            normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer(), byte_fallback=False, end_of_word_suffix="</w>"
        )
        tokenizer.decoder = decoders.BPEDecoder()
        return tokenizer

    def word_level(self):
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        tokenizer.train_from_iterator(
            self.texts, trainers.WordLevelTrainer(vocab_size=self.vocab_size, special_tokens=SPECIALS, show_progress=False)
        )
        return tokenizer

    def styles(self):
        yield "llama2", self.llama2()
        yield "llama2, ignore_merges", self.llama2(ignore_merges=True)
        yield "mistral", self.mistral()
        yield "gemma", self.gemma()
        yield "t5", self.t5()
        yield "t5, first", self.t5("first")
        yield "t5, small map, never", self.t5("never", charsmap.build(SMALL_CHARSMAP))
        yield "xlm-roberta", self.xlm_roberta()
        yield "albert, byte fallback", self.albert()
        yield "bert", self.bert()
        yield "bert, cased", self.bert(lowercase=False)
        yield "bert, plain", self.bert(clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)
        yield "roberta", self.roberta()
        yield "clip", self.clip()
        yield "gpt1", self.gpt1()
        yield "word level", self.word_level()

    # Every part in turn.

    def parts(self):
        yield "bpe, no fallback, fuse", self.bpe(None, pre_tokenizers.Metaspace(), byte_fallback=False, fuse_unk=True)
        yield "bpe, no fallback, no fuse", self.bpe(None, pre_tokenizers.Metaspace(), byte_fallback=False)
        yield "bpe, no unk", self.bpe(None, pre_tokenizers.Whitespace(), byte_fallback=False, specials=["<s>"])
        for fuse in [False, True]:
            tokenizer = self.bpe(None, None, fuse_unk=fuse)
            gone = {f"<0x{byte:02X}>" for byte in range(0xE0, 0xF0)}

            def drop(document):
                kept = [t for t in document["model"]["vocab"] if t not in gone]
                document["model"]["vocab"] = {token: i for i, token in enumerate(kept)}

            yield f"bpe, some bytes, {fuse}", edited(tokenizer, drop)
        prefixed = self.bpe(None, pre_tokenizers.WhitespaceSplit(), byte_fallback=False, continuing_subword_prefix="##")
        prefixed.decoder = decoders.WordPiece(cleanup=False)
        yield "bpe, prefix", prefixed
        yield "bpe, prefix and suffix", self.bpe(
            None, pre_tokenizers.Punctuation(), continuing_subword_prefix="@@", end_of_word_suffix="</w>"
        )
        yield "word piece, short words", self.word_piece(
            normalizers.NFD(), pre_tokenizers.Whitespace(), max_input_chars_per_word=6
        )
        yield "unigram, whole texts", self.unigram(normalizers.Replace(" ", "▁"), None, byte_fallback=True)
        yield from self.all_normalizers()
        yield from self.all_pre_tokenizers()
        yield from self.all_decoders()

    def all_normalizers(self):
        n = normalizers
        steps = {
            "NFC": n.NFC(), "NFD": n.NFD(), "NFKC": n.NFKC(), "NFKD": n.NFKD(), "Lowercase": n.Lowercase(), "Nmt": n.Nmt(),
            "ByteLevel": n.ByteLevel(), "StripAccents": n.StripAccents(), "Strip": n.Strip(), "Strip left": n.Strip(True, False),
            "Strip right": n.Strip(False, True), "Bert": n.BertNormalizer(), "Prepend": n.Prepend("▁é"),
            "Precompiled": n.Precompiled(nmt_nfkc()), "small Precompiled": n.Precompiled(charsmap.build(SMALL_CHARSMAP)),
            "Replace": n.Replace("the", "$0"), "Replace regex": n.Replace(Regex(r"\s+|(?=x)"), "_"),
            "Replace ends": n.Replace(Regex(r"\A|\z|$"), "|"),
        }  # fmt: skip
        for name, step in steps.items():
            tokenizer = self.characters(step)
            tokenizer.add_tokens(["<mask>", AddedToken("Ábc", lstrip=True), AddedToken("é ", normalized=True)])
            yield f"normalizer {name}", tokenizer
        names = list(steps)
        for _ in range(6):
            chosen = self.rng.sample(names, 3)
            tokenizer = self.unigram(n.Sequence([steps[name] for name in chosen]),
                                     pre_tokenizers.Metaspace("▁", "first", self.rng.random() < 0.5))  # fmt: skip
            try:
                tokenizer.add_tokens(["<mask>", "the", AddedToken("a", normalized=False)])
            except BaseException as error:  # some sequences the library itself cannot apply
                if type(error).__name__ != "PanicException":
                    raise
                continue
            yield f"normalizers {chosen}, first", tokenizer

    def all_pre_tokenizers(self):
        p = pre_tokenizers
        stages = {
            "Whitespace": p.Whitespace(), "WhitespaceSplit": p.WhitespaceSplit(), "Bert": p.BertPreTokenizer(), "Digits": p.Digits(),
            "single Digits": p.Digits(True), "Delimiter": p.CharDelimiterSplit("e"), "FixedLength": p.FixedLength(3),
            "UnicodeScripts": p.UnicodeScripts(), "ByteLevel": p.ByteLevel(), "Metaspace": p.Metaspace(),
            "Metaspace first": p.Metaspace("▁", "first"), "Metaspace never": p.Metaspace("é", "never"),
            "Metaspace whole": p.Metaspace("▁", "always", False),
        }  # fmt: skip
        for behavior in ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]:
            stages[f"Punctuation {behavior}"] = p.Punctuation(behavior)
            stages[f"Split {behavior}"] = p.Split(Regex(r"\s|\d\d"), behavior, self.rng.random() < 0.5)
        trained = self.bpe(None, None, end_of_word_suffix="</w>")
        for name, stage in stages.items():
            trained.pre_tokenizer = stage
            yield f"pre-tokenizer {name}", Tokenizer.from_str(trained.to_str())
        names = list(stages)
        for _ in range(10):
            chosen = self.rng.sample(names, 3)
            trained.pre_tokenizer = p.Sequence([stages[name] for name in chosen])
            yield f"pre-tokenizers {chosen}", Tokenizer.from_str(trained.to_str())

    def all_decoders(self):
        d = decoders
        chains = {
            "none": None, "WordPiece": d.WordPiece("##", True), "BPEDecoder": d.BPEDecoder("b"), "Metaspace": d.Metaspace(),
            "Metaspace never": d.Metaspace("▁", "never"), "Strip": d.Strip("a", 2, 0), "Fuse": d.Fuse(), "ByteFallback": d.ByteFallback(),
            "Replace": d.Replace(Regex("[ab]+|▁"), "é"), "ByteLevel": d.ByteLevel(),
            "Strip both": d.Sequence([d.Replace("a", ""), d.Fuse(), d.Strip("▁", 2, 0)]),
            "text": d.Sequence([d.ByteFallback(), d.Fuse(), d.Replace("aab", "<>"), d.Metaspace("▁"), d.BPEDecoder("ab")]),
            "bytes, then text": d.Sequence([d.WordPiece("##", False), d.ByteLevel(), d.Replace("é", "--"), d.Strip(" ", 1, 0)]),
            "suffix": d.Sequence([d.BPEDecoder("▁"), d.ByteFallback(), d.Metaspace("a", "always")]),
        }  # fmt: skip
        odd = ["##a", "##", "▁a", "▁", "a", "b", "ab", "aab", "▁▁b", "a▁b", " n't", " do not", " '", "'", "s", ".", "?", "é", "Ã©",
               "Ġa", "<0x+A>", "<0xe9>", "<0x4g>", "日本"]  # fmt: skip
        vocab = {token: i for i, token in enumerate(SPECIALS + BYTES + odd)}
        for name, chain in chains.items():
            tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
            if chain is not None:
                tokenizer.decoder = chain
            yield f"decoder {name}", with_specials(tokenizer, SPECIALS)


