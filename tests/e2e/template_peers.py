#!/usr/bin/env python3
"""Compares our template engine with jinja2, set up as transformers sets it up for chat templates.

    pip install jinja2
    tests/e2e/template_peers.py [--dump build/release/tests/template_dump] [--count 2000] [--seed 1]
    tests/e2e/template_peers.py --write-fixture    (tests/fixtures/chat_templates.json)

Three sources of cases: snippets that visit every part of the language, chat templates written from the
public prompt formats of well-known families (tests/e2e/chat_templates/), and seeded random conversations and
expressions. Where jinja2 raises, we must fail too. Exits 1 at the first differences.
"""

import argparse
import collections
import datetime
import functools
import json
import pathlib
import random
import subprocess
import sys

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

from template_cases import CONTEXT, SNIPPETS, random_conversation, random_expression

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TEMPLATES = ROOT / "tests" / "e2e" / "chat_templates"
FIXTURE = ROOT / "tests" / "fixtures" / "chat_templates.json"
NOW = 1_753_975_805  # 2025-07-31 15:30:05 UTC


class GenerationTag(jinja2.ext.Extension):
    """{% generation %}: to us, its contents."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_contents"), [], [], body).set_lineno(line)

    def _contents(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def make_environment():
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    zone = datetime.timezone.utc
    environment.globals["strftime_now"] = lambda f: datetime.datetime.fromtimestamp(NOW, zone).strftime(f)
    return environment


@functools.lru_cache(maxsize=64)
def compiled(environment, template):
    return environment.from_string(template)


def render(environment, template, context):
    """The text, or None where jinja2 fails."""
    try:
        return compiled(environment, template).render(**context)
    except Exception:  # whatever Python raises in there
        return None


def make_cases(count, seed):
    rng = random.Random(seed)
    for template, context in SNIPPETS:
        yield "snippet", template, context
    names = sorted(TEMPLATES.glob("*.jinja"))
    for path in names:
        template = path.read_text()
        for _ in range(max(count // max(len(names), 1) // 2, 4)):
            yield path.name, template, random_conversation(rng)
    for _ in range(count // 2):
        yield "random", "{{ " + random_expression(rng) + " }}", {"x": 3, "s": "Ab c", "l": [1, "b"], "d": {"k": 1}}


def ask(dump, cases):
    lines = [json.dumps({"template": t, "context": c, "now": NOW}) for _, t, c in cases]
    done = subprocess.run([dump], input="\n".join(lines) + "\n", capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def write_fixture(cases, expected):
    """The snippets, and for each family the first conversations: what the C++ tests check without jinja2."""
    snippets, conversations, seen = [], [], collections.Counter()
    for (name, template, context), text in zip(cases, expected):
        if text is not None and (" at 0x" in text or "Markup(" in text):
            continue
        if name == "snippet":
            snippets.append([template, text])
        elif name != "random" and seen[name] < 4:
            seen[name] += 1
            conversations.append({"template": name, "context": context, "text": text})
    fixture = {"now": NOW, "context": CONTEXT, "snippets": snippets, "conversations": conversations}
    FIXTURE.write_text(json.dumps(fixture, ensure_ascii=False, indent=0) + "\n")
    print(f"{len(snippets)} snippets and {len(conversations)} conversations written")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dump", default=str(ROOT / "build/release/tests/template_dump"))
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write-fixture", action="store_true")
    parser.add_argument("--most", type=int, default=10, help="differences to print")
    arguments = parser.parse_args()
    environment = make_environment()
    cases = list(make_cases(arguments.count, arguments.seed))
    expected = [render(environment, template, context) for _, template, context in cases]
    if arguments.write_fixture:
        return write_fixture(cases, expected)
    answers = ask(arguments.dump, cases)
    differences = 0
    for (name, template, context), want, got in zip(cases, expected, answers):
        if want is not None and (" at 0x" in want or "Markup(" in want):
            continue  # an address, or the type of an escaped text: no template prints one
        if "cannot be sliced" in got.get("error", ""):
            continue  # of a constant jinja2 makes an undefined value, of a variable an error; we, an error of both
        if got.get("text") != want:
            differences += 1
            if differences <= arguments.most:
                print(f"--- {name}: {template[:300]!r}\n    context {json.dumps(context)[:300]}")
                print(f"    jinja2 {want!r}\n    ours   {got!r}")
    failures = sum(want is None for want in expected)
    print(f"{len(cases)} cases ({failures} of them errors in both), {differences} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
