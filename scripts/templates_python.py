#!/usr/bin/env python3
"""Renders a corpus of chat templates with Python's jinja2, set up by transformers.

    templates_python.py corpus OUT.json
        writes every case with Python's text, or the error's name;
        `EPO_TEMPLATES=OUT.json cargo test --test hf_fixtures corpus -- --ignored --nocapture`
        renders the same cases with this crate and prints those that differ
    templates_python.py fixture tests/fixtures/hf/templates.json
        writes the smaller set that is committed

The cases are made by combining constructs, types and arguments. Texts that depend on a memory
address or on chance are left out. Needs transformers >= 5 (the committed set: transformers 5.24.0,
jinja2 3.1.6).
"""

import argparse
import datetime
import itertools
import json
import re
import warnings

import transformers.utils.chat_template_utils as utils

from templates_corpus import CHATS, corpus

# 29 February 2024, 13:05:09: a Thursday of a leap year.
NOW = 1709211909


class Clock(datetime.datetime):
    seconds = NOW

    @classmethod
    def now(cls, tz=None):
        then = datetime.datetime.fromtimestamp(cls.seconds, datetime.timezone.utc)
        return then.replace(tzinfo=None)


def render(case):
    """Python's text of a case, or the name of the error."""
    Clock.seconds = case.get("now", NOW)
    chat = CHATS[case.get("chat", "plain")]
    context = {
        "messages": json.loads(chat["messages"]),
        "tools": chat["tools"] and json.loads(chat["tools"]),
        "documents": None,
        "add_generation_prompt": chat["add_generation_prompt"],
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|eot_id|>",
    }
    try:
        template = utils._compile_jinja_template(case["template"])
        return {"text": template.render(**context)}
    except Exception as error:
        return {"error": type(error).__name__}


def rendered():
    utils.datetime = Clock
    warnings.simplefilter("ignore")
    known = set()
    for case in corpus():
        key = json.dumps(case)
        if key in known:
            continue
        known.add(key)
        result = render(case)
        try:
            result.get("text", "").encode()
        except UnicodeEncodeError:
            continue
        if not re.search(r" at 0x[0-9a-f]+>", result.get("text", "")):
            yield {**case, **result}


def refused(case):
    """True for what this crate may refuse, though Python renders it."""
    text = case.get("text")
    if text is None:
        return False
    return bool(
        REFUSED.search(case["template"])
        or re.search(r"\d{39}|^\(-?[\d.e+-]+j\)$", text)
        or ("pprint" in case["template"] and len(text) > 80)
    )


# Constructs that need large tables, chance or addresses in memory, and slices of literals that
# jinja2 computes when it compiles.
REFUSED = re.compile(
    r"urlize|lipsum\(|\\N\{|\\ud83e|autoescape|as_integer_ratio|hex\(|namespace \}\}|self \}\}"
    r"|set loop =|with a, b|^\{#$|dict\) \}\}|^\{\{ call|(upper|lower) is (upper|lower)"
    r"|\) is (upper|lower)|(dict|namespace|lipsum|raise_exception) is (upper|lower)"
    r"|attr\('upper'\) \}\}|k': none\}\) \| random|\[1:2, 0\]|\['a':\]|\[1\.0:\]"
    r"|^\{\{ ([a-z0-9.-]+|\{.*\})\[(1:|::-1)\] \}\}$"
)
WHOLE = ("statements", "lines")


def sample(cases, most):
    """Some cases of every kind, at the same distance from each other."""
    by_kind = {}
    for case in cases:
        by_kind.setdefault(case["kind"], []).append(case)
    for kind, group in by_kind.items():
        step = 1 if kind in WHOLE else max(1, len(group) // most)
        yield from group[::step][: len(group) if kind in WHOLE else most]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["corpus", "fixture"])
    parser.add_argument("out")
    args = parser.parse_args()
    cases = list(rendered())
    for case in cases:
        if refused(case):
            case["refused"] = True
    if args.what == "fixture":
        cases = list(sample(cases, most=12))
    with open(args.out, "w") as file:
        head = json.dumps({"now": NOW, "chats": CHATS, "cases": []})[:-2]
        lines = ",\n".join(json.dumps(case, ensure_ascii=True) for case in cases)
        file.write(head + "\n" + lines + "\n]}\n")
    print(len(cases), "cases,", sum("refused" in case for case in cases), "may be refused")


if __name__ == "__main__":
    main()
