#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/references/tokenizer_*.json: what llama.cpp makes of awkward strings.

To repeat, in a virtual environment:

    pip install llama-cpp-python==0.3.36     # builds llama.cpp; any recent version should agree
    python make_tokenizer_reference.py --vocabularies DIR --smollm FILE --llama2c FILE

DIR holds ggml-vocab-{gpt-2,llama-bpe,qwen2,deepseek-llm,llama-spm,phi-3}.gguf, which are part of
llama.cpp's source (models/). Each output names the SHA-256 of the file that it belongs to; the test
skips an output whose file differs. Strings are base64, for some are no text.

The reference for llama2.c is a transcription of that program's rule into naive Python.
"""

import argparse
import base64
import ctypes
import hashlib
import json
import random
import struct
import tempfile
from pathlib import Path

MODELS = ["gpt-2", "llama-bpe", "qwen2", "deepseek-llm", "llama-spm", "phi-3"]

TEXTS = [
    "", " ", "  ", "   ", "    x", "x    ", " x ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n",
    "\r\n\r\n", "\r", " \n", "\n ", " \n \n ", "\t\n", "\n\t", "a\n b\n  c\n   d", "a \n",
    "a  \n\n", "a\r\nb", "a \r\n b", "a\r\r\nb", "\u00a0", "a\u00a0b", " \u00a0 ", "\u3000",
    "\u3000a\u3000", "\u2003x", "\u2028", "a\u2028b", "\u2029x", "\u0085", "a\u0085b", "\u180ex",
    " \u180e ", "\u200b", "a\u200bb", "\u1680x", "\u205f\u202f", "\x1c\x1d\x1e\x1f", "\x0b\x0c",
    "a\x0bb", "\x00", "a\x00b", "\x01\x02\x7f", "\ufeff", "\ufeffBOM", "\ufffd", "\ufffe\uffff",
    "\U0010ffff", "Hello", "Hello world", " Hello world", "Hello, world!",
    " Hello, y'all! How are you \U0001f601 ?", "I'm", "I'M", "we've WE'VE We'Ve", "they're THEY'RE",
    "I'll I'LL", "he'd HE'D", "it's IT'S", "can't CAN'T", "'s't're've'm'll'd", "'S'T'RE'VE'M'LL'D",
    "'rE 'Ve 'lL", "don’t it’s", "'\u017f", " 's", "a's b", "''s", "'", "''", "'''", "' '", "'x",
    "s'", "l'l", "'l", "'r", "'v", "0", "1", "12", "123", "1234", "12345", "123456", "1234567",
    "12345678901234567890", "a1b2c3", "3.14159", "1,000,000", "-1", "+1e-10", "0x1F", "1 2 3",
    "  1  22  333  ", "1st 2nd", "x1", "\u0661\u0662\u0663", "\u0967\u0968\u0969", "\u0e51\u0e52",
    "\uff11\uff12\uff13\uff14", "\u00b2\u00b3\u00bd", "\u2160\u2161\u2162", "\u3007\u3021",
    "\u2460\u2461\u2462\u2463", "\U0001d7ce\U0001d7cf", "1\u0662a\u0663 4", "a\u0661", "\u0661a",
    "10\u00b2", "\u09f4", "\u0bf0x", "\U0001f600", "\U0001f600\U0001f601", "a\U0001f600b",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7",
    "\u2764\ufe0f", "\U0001f44d\U0001f3fd", "1\ufe0f\u20e3",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "\U0001fae0\U0001faf6", "e\u0301", "\u00e9", "a\u0300\u0301\u0302", "\u0301", " \u0301",
    "\u0301\u0301x", "Z\u0351\u036b", "\u1100\u1161\u11a8", "\u0e01\u0e49", "\u0b95\u0bcd\u0bb7",
    "n\u0303o", "I\u0307", "\u0130\u0131", "\u4f60\u597d", "\u4f60\u597d\uff0c\u4e16\u754c\uff01",
    "\u6771\u4eac2024\u5e74", "a\u4f60b", "\u3053\u3093\u306b\u3061\u306f\u3001\u4e16\u754c\u3002",
    "\u30ab\u30bf\u30ab\u30ca\u30fc", "\uc548\ub155\ud558\uc138\uc694 \uc138\uacc4",
    "\u9fa5\u9fa6\u9fff", "\u3400\U00020000\U0002a6d6", "\ud7a3\ud7b0\ud7fb", "\u3000\u4e00\u3000",
    "\u3001\u3002\u3003", "\uff08\u5168\u89d2\uff09", "\uff41\uff21",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u0645\u064e\u0631\u0652\u062d", "\u05e9\u05dc\u05d5\u05dd", "\u05e9\u05b8\u05c1",
    "\u200f\u202b\u0627\u202c", "\u061f\u060c\u061b",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\u0928\u092e\u0938\u094d\u0924\u0947", "\u1780\u17d2\u1798\u17c2\u179a", "\u0f56\u0f7c\u0f51",
    "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0", "\u0531\u0561\u0580\u0587",
    "\u13a0\u13f8\uab70", "\u1c90\u10d0\u1c80", "\u0416\u0436", "\u03a9\u03c9\u1f00",
    "\u01c5\u01f2", "\u1e9e\u00df", "\ufb01\ufb13", "\u2102\u210a\u2113", "\U0001d400\U0001d41a",
    "\U00010400\U00010428", "\u02b0\u02bb", "\u00aa\u00ba", "\u00b5\u03bc", "\u01bb\u0294",
    "\ua722\ua78b\ua790", "\u2c00\u2d00", "!", "!!", "!!!!!!", "...", "\u2026", "?!", "(a)", "[b]",
    "{c}", "a.b.c", "a,b", "a;b:c", '"quoted"', "\u2018q\u2019 \u201cq\u201d", "\u00abx\u00bb",
    "--", "\u2014", "a-b", "a_b", "__init__", "$5", "5%", "\u20ac5", "#tag", "@me", "a&b", "a=b",
    "a==b", "=====", "a+b", "<a>", "a<b>c", "x^2", "~/x", "`code`", "|x|", "\\n", "C:\\x", "a/b//c",
    "http://example.org/a?b=c&d=e#f", "me@example.org", "\u221e\u2211\u222b", "\u2200x\u2208S",
    "\u00a7\u00b6\u00a9\u00ae\u2122", "\u2190\u2191\u2192", "\u2588\u2591", "\u0300a", " !", "  !",
    "!  !", "! \n", "!\n\n", "!\r\n!", " ...\n\n  x", "def f(x):\n    return x  # y\n\n\n",
    "\tif (a) {\r\n\t\tb();\r\n\t}\r\n", "for  (int i=0;i<10;++i)", '{"a": [1, 2.5, null]}',
    "SELECT * FROM t WHERE a='b';", "\\documentclass{article}", "<p>x</p>",
    "CamelCaseWord snake_case_word UPPER", "supercalifragilisticexpialidocious",
    "Donaudampfschifffahrt", "na\u00efve caf\u00e9 \u00fcber \u00f1", "ZWNJ\u200cx",
    "soft\u00adhyphen", "\u00ad", "\u202ertl", "\u2066x\u2069", "\u2581", "\u2581\u2581a",
    "a\u2581b", " \u2581 ", "\u0120", "\u0120a", "\u00c4\u00a0",
    "\u00f8\u00f6\u00fa\u00ff\u00c0\u00c1", "<s>", "</s>", "<unk>", "<s>x</s>", " <s> x </s> y",
    "</s >", "<pad>", "<0x0A>", "<0x41><0xE2>", "<0xZZ>", "<|endoftext|>", "a<|endoftext|>b",
    "<|endoftext|><|endoftext|>", "<|endoftext|>\n", "<|endoftext",
    "<|im_start|>user\nhi<|im_end|>\n", "<|im_start|><|im_end|>", "<|im_end|>  \n  x",
    "x <|im_start|> y", "<|begin_of_text|>", "<|end_of_text|>",
    "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>", "<|reserved_special_token_0|>",
    "<\uff5cbegin\u2581of\u2581sentence\uff5c>hi<\uff5cend\u2581of\u2581sentence\uff5c>",
    "<|user|>\nhi<|end|>\n<|assistant|>\n", "<|user|>  x", "<|end|>\t\r\n \x0b\x0cx", "<|end|>   ",
    "<|system|>\u00a0x", "<|placeholder1|> <|placeholder2|>", "<repo_name>x<file_sep>y<filename>",
    "<jupyter_code>", "<empty_output>", "[PAD151646]x", "[PAD100015] [PAD32011]", "[PAD151646",
    "<|fim_prefix|>", "<|>", "<||>", "||<|im_end|>|",
]

BYTES = [
    b"\xff", b"\xfe\xff", b"a\xffb", b"\x80", b"\x80\x80\x80", b"\xc0\x80", b"\xc1\xbf", b"\xc3",
    b"\xc3(", b"\xe2\x82", b"\xe2\x82\xac\xe2\x82", b"\xe2(\xa1", b"\xe0\x80\x80", b"\xe0\x9f\xbf",
    b"\xed\xa0\x80", b"\xed\xbf\xbf x", b"\xed\xa0\xbd\xed\xb8\x80", b"a \xed\xa0\x80 1",
    b"\xf0\x9f\x98", b"\xf0\x9f\x98 x", b"\xf0\x80\x80\x80", b"\xf0\x82\x82\xac",
    b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xef\xbf", b"Hello \xe4\xb8",
    b"\xe4\xbd\xa0\xe5", b"\xf0", b" \xf0", b"x\xc2", b"\xc2\xa0\xc2", b"\n\x80\n", b"1\x802",
    b"\xe3\x80\x80\xe3\x80", b"'\x80s", b"\xbf\xbf \xbf", b"caf\xe9 na\xefve", b"\xd0\xcf\xf0\xce",
]

LONG = [
    "a" * 600, "ab" * 300, " " * 400, " " * 301 + "x", "\n" * 200, "1" * 200, "!" * 200,
    "\u4f60" * 150, "\U0001f600" * 60, "a " * 200, " \n" * 100, "=" * 257, "\t" * 130, "aA1 " * 60,
    "e\u0301" * 80, "\u0661" * 70,
]


def awkward_strings() -> list[bytes]:
    """Returns every test string once, in a fixed order."""
    strings = [text.encode("utf-8", "surrogatepass") for text in TEXTS + LONG] + BYTES
    rng = random.Random(1)
    pool = [s for s in strings if 0 < len(s) < 24]
    strings += [b"".join(rng.choices(pool, k=rng.randint(2, 7))) for _ in range(80)]
    for low, high in [
        (0x20, 0x7F),
        (0x80, 0x250),
        (0x250, 0x3100),
        (0x3000, 0xA000),
        (0xA000, 0xD7FF),
        (0x10000, 0x11200),
        (0x1D400, 0x1F9FF),
    ]:
        for _ in range(6):
            letters = [chr(rng.randrange(low, high)) for _ in range(rng.randint(3, 20))]
            strings.append(rng.choice(["", " "]).join(letters).encode())
    for _ in range(20):  # no byte above 0xf4: llama.cpp throws on code points above U+10FFFF
        strings.append(
            bytes(
                rng.choice([rng.randrange(0xF4), rng.randrange(0x20, 0x7F)])
                for _ in range(rng.randint(1, 16))
            )
        )
    return [
        s
        for s in dict.fromkeys(strings)
        if not any(s[i] == 0xF4 and s[i + 1 : i + 2] > b"\x8f" for i in range(len(s)))
    ]


def ranges(ids: list[int]) -> list[list[int]]:
    """Returns ascending ids as [first, last] pairs."""
    result: list[list[int]] = []
    for i in ids:
        if result and result[-1][1] == i - 1:
            result[-1][1] = i
        else:
            result.append([i, i])
    return result


def llama_cpp_reference(path: Path) -> dict:
    """Returns what llama.cpp says of a vocabulary and makes of the strings."""
    import llama_cpp

    model = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    vocab = llama_cpp.llama_model_get_vocab(model._model.model)
    size = model.n_vocab()
    pieces = hashlib.sha256()
    buffer = ctypes.create_string_buffer(4096)
    for token in range(size):
        length = llama_cpp.llama_token_to_piece(vocab, token, buffer, len(buffer), 0, True)
        assert length >= 0
        pieces.update(struct.pack("<Q", length) + buffer.raw[:length])
    control = [t for t in range(size) if llama_cpp.llama_vocab_is_control(vocab, t)]
    ends = [t for t in range(size) if llama_cpp.llama_vocab_is_eog(vocab, t)]
    cases = []
    for text in awkward_strings():
        plain = model.tokenize(text, add_bos=False, special=False) if text else []
        parsed = model.tokenize(text, add_bos=False, special=True) if text else []
        case = {"text": base64.b64encode(text).decode(), "plain": plain}
        if parsed != plain:
            case["parsed"] = parsed
        cases.append(case)
    return {
        "size": size,
        "bos": llama_cpp.llama_vocab_bos(vocab),
        "eos": llama_cpp.llama_vocab_eos(vocab),
        "add_bos": int(llama_cpp.llama_vocab_get_add_bos(vocab)),
        "control": ranges(control),
        "ends": ranges(ends),
        "pieces_sha256": pieces.hexdigest(),
        "cases": cases,
    }


def with_pre_tokenizer(data: bytes, old: str, new: str) -> bytes:
    """Returns a vocabulary-only GGUF file with another value of tokenizer.ggml.pre."""

    def entry(value: str) -> bytes:
        return b"tokenizer.ggml.pre" + struct.pack("<IQ", 8, len(value)) + value.encode()

    assert data.count(entry(old)) == 1
    return data.replace(entry(old), entry(new))


def llama2c_encode(tokens: list[bytes], scores: list[float], text: bytes) -> list[int]:
    """llama2.c's rule: a space in front, characters or bytes, then the best pair until none."""
    if not text:
        return []
    index = {token: i for i, token in reversed(list(enumerate(tokens)))}
    ids = [index[b" "]]
    start = 0
    while start < len(text):
        end = start + 1
        while end < len(text) and text[end] & 0xC0 == 0x80 and end - start < 4:
            end += 1
        piece = text[start:end]
        ids += [index[piece]] if piece in index else [byte + 3 for byte in piece]
        start = end
    while True:
        best = None
        for i in range(len(ids) - 1):
            joint = index.get(tokens[ids[i]] + tokens[ids[i + 1]])
            if joint is not None and (best is None or scores[joint] > best[0]):
                best = (scores[joint], i, joint)
        if best is None:
            return ids
        ids[best[1] : best[1] + 2] = [best[2]]


def llama2c_reference(path: Path) -> dict:
    """Returns what llama2.c makes of the strings with a tokenizer file."""
    data = path.read_bytes()
    tokens, scores, offset = [], [], 4
    while offset < len(data):
        score, length = struct.unpack_from("<fi", data, offset)
        tokens.append(data[offset + 8 : offset + 8 + length])
        scores.append(score)
        offset += 8 + length
    cases = []
    for text in awkward_strings():
        try:
            text.decode()
        except UnicodeDecodeError:
            continue  # the two programs cut stray bytes differently
        if b"<" not in text and b"\x00" not in text and b"\xe2\x96\x81" not in text:
            cases.append(
                {
                    "text": base64.b64encode(text).decode(),
                    "plain": llama2c_encode(tokens, scores, text),
                }
            )
    return {"size": len(tokens), "cases": cases}


def write(output: Path, name: str, source: Path, pre: str, reference: dict) -> None:
    """Writes one reference with the file that it belongs to."""
    head = {
        "file": source.name,
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "pre": pre,
    }
    cases = ",\n".join(json.dumps(case, separators=(",", ":")) for case in reference.pop("cases"))
    body = json.dumps(head | reference, separators=(",", ":"))
    (output / f"tokenizer_{name}.json").write_text(f'{body[:-1]},"cases":[\n{cases}]}}\n')
    print(f"tokenizer_{name}.json: {cases.count(chr(10)) + 1} strings")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--vocabularies", type=Path, required=True, help="folder of ggml-vocab-*.gguf"
    )
    parser.add_argument(
        "--smollm", type=Path, required=True, help="SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    parser.add_argument("--llama2c", type=Path, required=True, help="tok512.bin of stories260K")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).parent, help="folder to write to"
    )
    arguments = parser.parse_args()
    for name in MODELS:
        path = arguments.vocabularies / f"ggml-vocab-{name}.gguf"
        write(arguments.output, name, path, "", llama_cpp_reference(path))
    write(arguments.output, "smollm", arguments.smollm, "", llama_cpp_reference(arguments.smollm))
    qwen2 = arguments.vocabularies / "ggml-vocab-qwen2.gguf"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deepseek-r1-qwen.gguf"
        path.write_bytes(with_pre_tokenizer(qwen2.read_bytes(), "qwen2", "deepseek-r1-qwen"))
        write(
            arguments.output,
            "deepseek-r1-qwen",
            qwen2,
            "deepseek-r1-qwen",
            llama_cpp_reference(path),
        )
    write(arguments.output, "llama2c", arguments.llama2c, "", llama2c_reference(arguments.llama2c))


if __name__ == "__main__":
    main()
