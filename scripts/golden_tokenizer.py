"""Token ids as transformers' CLIPTokenizer gives them.

usage: golden_tokenizer.py cases SMALL_FOLDER OUT.json
           texts under many kinds of token files, over the shipped small vocabulary
       golden_tokenizer.py real FOLDER OUT.json
           texts under a real vocabulary
       golden_tokenizer.py prompts OUT.txt [N [SEED]]
           N random prompts, one a line (default: every code point in a context of marks)
       golden_tokenizer.py compare FOLDER PROMPTS.txt PROBED.safetensors
           compare what `agewright probe tokenizer --prompts PROMPTS.txt` wrote
"""
import json
import os
import random
import shutil
import sys
import tempfile
import warnings

warnings.filterwarnings("ignore")

LENGTH = 24
FULL = dict(lstrip=False, normalized=True, rstrip=False, single_word=False)
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


def token(content, **more):
    return dict(content=content, __type="AddedToken", **more)


def plain(content, **more):
    return dict(content=content, **more)


# name: files that replace those of the small vocabulary (None removes one)
CASES = {
    "shipped": {},
    "no_config": {"tokenizer_config.json": None, "special_tokens_map.json": None},
    "sd1": {
        "tokenizer_config.json": {
            "bos_token": token(BEGIN, **FULL), "eos_token": token(END, **FULL),
            "unk_token": token(END, **FULL), "pad_token": END, "model_max_length": 77},
        "special_tokens_map.json": {
            "bos_token": plain(BEGIN, **FULL), "eos_token": plain(END, **FULL),
            "unk_token": plain(END, **FULL), "pad_token": END}},
    "sd2": {
        "tokenizer_config.json": {"pad_token": END, "model_max_length": 77},
        "special_tokens_map.json": {
            "bos_token": plain(BEGIN, **FULL), "eos_token": plain(END, **FULL),
            "unk_token": plain(END, **FULL), "pad_token": "!"}},
    "added": {"added_tokens.json": {"<My-Cat>": 1000, "sks": 1001, "*": 1002, "<my": 1003}},
    "decoder": {
        "tokenizer_config.json": {
            "pad_token": END, "model_max_length": 1000000,
            "added_tokens_decoder": {
                "998": plain(BEGIN, lstrip=True, rstrip=True, normalized=False, special=True),
                "999": plain(END, special=True, **FULL),
                "1000": plain("<cat>", lstrip=True, normalized=True, single_word=True, special=False),
                "1001": plain("Sks", rstrip=True, normalized=False, single_word=True, special=False),
                "1009": plain("zz top", special=False)}}},
    "more": {
        "tokenizer_config.json": {
            "mask_token": "[MASK]", "cls_token": token("[CLS]", lstrip=True), "image_token": "<img>",
            "additional_special_tokens": ["<age>", token("<Sex>", rstrip=True)]},
        "special_tokens_map.json": {"sep_token": "|"}},
    "split_special": {
        "tokenizer_config.json": {"split_special_tokens": True, "model_max_length": 77},
        "special_tokens_map.json": None},
    "one_file": {"vocab.json": None, "merges.txt": None},  # with a tokenizer.json
    "grown": {},
}
GROWN = ["<My-Cat>", "sks", "<my", "\u00e9t\u00e9"]  # added to that tokenizer once it is open

TEXTS = [
    "", " ", "photo of a 70 year old person", "  A  Photo\nof An Old Woman! ", "You should've done this",
    "A\n'll 11p223RF☆ho!!to?'' of a cat", "a (man:1.3), 4k, best_quality", "naïve café — 65-year-old man",
    "don't you'RE I'm we'd he'S x't 'tis ''s", "<|startoftext|> hi <|endoftext|>there", "a<|ENDOFTEXT|>!b",
    "<|StartOfText|>!!", "<|endoftext|><|endoftext|>", "!!<|endoftext|>!!", "İstanbul Σίσυφος ΑΣ ẞ ß ﬁ",
    "e\u0301 \u00e9 a\u0345\u0316\u0300 \u1e9b\u0323", "\uac00\u11a8 \u1100\u1161\u11a8 \uac70\u11a7\u1100",
    "你好，世界 日本語テキスト", "👩‍👩‍👧 🙂🙂 ❤️", "١٢٣ Ⅷ ²½ ٣٤", "\u0085\u00a0\u2003\u3000\ufeffx\u200by", "a\u0000b\x01\x1c\x7f",
    "“curly” ‘quotes’ … –", "\u0d3b\u0952 \u07fd\u0316 \U00011935\U00011930", "\U00010d50\U00016ea0\ua7da\u1c89", "\U0001e5f1\U00010d41",
    "<My-Cat> <my-cat> <MY-cat> <my dog", "sks Sks SKS sksman Sks  man xSks Sks_", "*star* a*b", "<cat> x<cat>y  <cat>, <CAT> _<cat>",
    "zz top ZZ Top", "[MASK] [mask]  [CLS] [cls] <age>x <Sex>  y <sex> <img> a|b |", " ".join(["person"] * 40),
    "\u00c9t\u00e9 l'e\u0301te\u0301 d'\u00e9t\u00e9s", "\u1e9e\u0130\u0049\u0307 \u01c5 \u1fb3 \u2126 \u212a", "क्षत्रिय ಠ_ಠ ᏸ ꭰ", "x\ud7a3\u11a7", "supercalifragilisticexpialidocious",
]


def encode(folder, texts, length, more=()):
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(list(more))
    return [tokenizer(t, padding="max_length", truncation=True, max_length=length)["input_ids"] for t in texts]


def cases(small, out):
    from transformers import CLIPTokenizer

    result = []
    for name, files in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            for f in os.listdir(small):
                shutil.copy(os.path.join(small, f), folder)
            if name == "one_file":
                CLIPTokenizer.from_pretrained(small).save_pretrained(folder)
                files = dict(files)
                for f in ("tokenizer.json", "tokenizer_config.json"):
                    files[f] = json.load(open(os.path.join(folder, f)))
            for f, content in files.items():
                path = os.path.join(folder, f)
                if content is None:
                    os.remove(path)
                elif name != "one_file":
                    json.dump(content, open(path, "w"))
            more = GROWN if name == "grown" else []
            ids = encode(folder, TEXTS, LENGTH, more)
        result.append({"name": name, "files": files, "add": more, "ids": ids})
    dump({"length": LENGTH, "texts": TEXTS, "cases": result}, out)


def dump(value, path):
    # jansson keeps no NUL in its strings, so texts go in hexadecimal
    value["texts"] = [t.encode().hex() for t in value["texts"]]
    with open(path, "w") as f:
        json.dump(value, f, separators=(",", ":"))
        f.write("\n")


def random_texts(n, seed):
    r = random.Random(seed)
    words = ["photo of a 70 year old person", "'s", "'re", "'LL", BEGIN, END, END.upper(), " ", "!", "THE", "21st", "|>", "_"]
    ranges = [(32, 127), (0, 0x250), (0x300, 0x600), (0x900, 0xE80), (0x1100, 0x1200), (0x1E00, 0x2C00),
              (0x4E00, 0x4F00), (0xAC00, 0xAC80), (0x1F300, 0x1F700), (0, 0x110000)]
    for _ in range(n):
        text = ""
        for _ in range(r.randint(0, 14)):
            low, high = r.choice(ranges)
            text += r.choice(words) if r.random() < 0.4 else "".join(
                chr(r.randrange(low, high)) for _ in range(r.randint(1, 6)))
            text += " " if r.random() < 0.3 else ""
        yield "".join(c for c in text if not 0xD800 <= ord(c) < 0xE000 and c not in "\n\0")


def prompts(out, n=None, seed="1"):
    if n:
        texts = random_texts(int(n), int(seed))
    else:
        texts = (f"a{c}b {c}\u0316\u0300\u0345{c}" for c in map(chr, range(0x110000))
                 if not 0xD800 <= ord(c) < 0xE000 and c not in "\n\0")
    with open(out, "w", newline="\n") as f:
        f.writelines(t + "\n" for t in texts)


def compare(folder, path, probed):
    from safetensors.numpy import load_file

    with open(path, newline="\n") as f:
        texts = f.read().split("\n")
    texts = texts[:-1] if texts[-1] == "" else texts
    ours = load_file(probed)["input_ids"]
    wanted = encode(folder, texts, ours.shape[1])
    bad = [i for i, ids in enumerate(wanted) if ids != ours[i].tolist()]
    for i in bad[:5]:
        print(ascii(texts[i]), wanted[i], ours[i].tolist(), sep="\n  ")
    if bad:
        sys.exit(f"{len(bad)} of {len(texts)} prompts differ")
    print(f"all {len(texts)} prompts equal")


if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[1] not in ("cases", "real", "prompts", "compare"):
        sys.exit(__doc__)
    if sys.argv[1] == "real":
        folder, out = sys.argv[2:]
        texts = TEXTS + list(random_texts(60, 1))
        dump({"length": 77, "texts": texts, "cases": [{"name": "real", "files": {}, "ids": encode(folder, texts, 77)}]}, out)
    else:
        globals()[sys.argv[1]](*sys.argv[2:])
