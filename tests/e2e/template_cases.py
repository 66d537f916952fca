"""Cases for template_peers.py: snippets over the whole language, random conversations and expressions."""

CONTEXT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "  Hi <b> & 'you' \u00e9\u4e16 "},
        {"role": "assistant", "content": "Hello\nthere", "tool_calls": [{"function": {"name": "f", "arguments": {"a": 1}}}]},
    ],
    "n": 5, "f": 2.5, "s": "Hello, World", "u": "\u00dcber stra\u00dfe \ufb01n", "l": [3, 1, 2], "e": [], "none_value": None, "yes": True,
    "d": {"b": 1, "a": [1, {"x": None}], "items": "shadowed", "C": 2.0}, "words": ["b", "A", "c", "B"],
    "people": [{"name": "Ann", "age": 31, "city": "X"}, {"name": "bob", "age": 25, "city": "Y"}, {"name": "Cy", "age": 31, "city": "X"}],
}

_EXPRESSIONS = r"""
1 + 2 * 3 - 4 / 2|7 // 2, -7 // 2, 7 % 3, -7 % 3|2 ** 3 ** 2|-2 ** 2|7.5 // 2, -7.5 % 2|1 / 3|1e16, 1e15, 1e-5, 0.0001, 123456789.123|
10 / 2|3 * 'ab' ~ 1 ~ none ~ true ~ 2.0|'a' 'b' "c"|[1, 'a', none, true, 2.5, (1,), (), {'k': [1]}]|(1, 2) + (3,)|[1] + [2]|[0] * 3|
1 == 1.0, true == 1, '1' == 1, [1] == [1.0], {'a': 1} == {'a': 1}|1 < 2 < 3, 1 < 3 < 2|'a' < 'b'|[1, 2] < [1, 3]|1 < 'a'|
'ell' in s, 'x' not in s, 3 in l, 'a' in d, 5 in d|not yes|not e and yes or n|n if yes else 0|n if not yes|(n if not yes) is undefined|
missing|missing.x|missing is defined|missing + 1|missing ~ 'x'|missing == missing2|missing|length|missing|default('z')|none_value|default('z')|none_value|default('z', true)|
''|d('q', boolean=true)|s[0], s[-1], s[1:4], s[::-1], s[::2], s[-3:], s[10:2], s[99:]|u[0], u[-2:], u|length, u[::-1]|l[0], l[-1], l[1:], l[::-1], l[5]|
d.b, d['b'], d.a[1].x, d.missing, d['items'], d.items is callable|d.get('b'), d.get('zz'), d.get('zz', 7)|d.keys()|list|d.values()|list|d.items()|list|d.items()|length|
s.upper(), s.lower(), s.title(), s.swapcase(), s.capitalize()|u.upper(), u.lower(), u.title(), u.capitalize()|s.startswith('Hell'), s.startswith(('x', 'He')), s.endswith('d')|
s.find('o'), s.rfind('o'), s.find('zz'), s.index('W'), s.count('l')|s.index('zz')|s.replace('l', 'L'), s.replace('l', 'L', 1), s.replace('', '-')|s.split(', '), s.split(), 'a  b c'.split(' '), 'a b c d'.rsplit(' ', 2), 'a b c'.split(None, 1)|
' x '.strip() ~ '|' ~ ' x '.lstrip() ~ '|' ~ ' x '.rstrip()|'xxabxx'.strip('x'), 'abc'.lstrip('ab'), 'abc'.rstrip('cb')|'a\nb\r\nc'.splitlines()|'-'.join(['a', 'b'])|'-'.join([1])|
'{} {1}'.format(1, 2)|'{} {}'.format(1, 2)|'{a:>5}|{b:.2f}|{c!r}|{d:05d}|{e:,}'.format(a='x', b=3.14159, c='q', d=42, e=1234567)|'%s %d %.2f %5s|%-5s| %x %%' % ('a', 3, 2.5, 'b', 'c', 255)|'%(k)s' % {'k': 1}|
'abc'.center(9, '*'), 'abc'.ljust(5) ~ '|', 'abc'.rjust(5), '-42'.zfill(6)|'a,b'.partition(','), 'a,b,c'.rpartition(',')|'abc'.isalpha(), '12'.isdigit(), 'a1'.isalnum(), ' '.isspace(), 'aB'.isupper(), 'ab'.islower()|
'prefix-x'.removeprefix('prefix-'), 'x.txt'.removesuffix('.txt')|l|sort, l|sort(reverse=true), words|sort, words|sort(case_sensitive=true)|people|sort(attribute='age,name')|map(attribute='name')|list|
people|map(attribute='name')|join(', ')|people|map('length')|list|people|selectattr('age', 'gt', 30)|map(attribute='name')|list|people|rejectattr('age', 'equalto', 31)|list|length|[1, 0, 2]|select|list|[1, 2, 3, 4]|select('even')|list|[1, 2, 3]|reject('odd')|list|
words|map('upper')|list|words|unique|list|words|min, words|max, l|sum, people|sum(attribute='age')|max|e|first|people|groupby('city')|list|people|groupby('city')|map('first')|list|[1, 2, 3, 4, 5]|batch(2)|list|[1, 2, 3, 4, 5]|batch(2, 0)|list|[1, 2, 3, 4, 5]|slice(3)|list|
d|dictsort|d|items|list|l|first, l|last, l|length, s|first, s|last|l|reverse|list, s|reverse|l|join, l|join('-')|'a b'|title, 'hello-world (x) [y'|title|s|upper|lower|capitalize|s|trim, '  a '|trim|'xxaxx'|trim('x')|s|replace('o', '0')|
'a\nb\n\nc'|indent, 'a\nb'|indent(2, true), 'a\n\nb'|indent(2, blank=true), 'a\nb'|indent('>> ')|'a long text with words'|truncate(12), 'abcdefghij'|truncate(5, true, '', 0)|s|wordcount|s|center(20) ~ '|'|'<a href="x">'|e|s|escape|
3.7|int, '12'|int, 'x'|int, 'x'|int(5), '0x1f'|int(base=16), '1.9'|int, none|int|'3.5'|float, 'x'|float, 3|float|2.5|round, 3.5|round, 2.675|round(2), 42|round, 3.14159|round(3, 'floor'), 2.1|round(0, 'ceil'), 1234.5|round(-2)|-3|abs, 2.5|abs|
d|tojson, l|tojson, 'é"\n/'|tojson, none|tojson, 2.0|tojson, {'a': {'b': []}}|tojson(indent=2)|{'b': 1, 'a': 2}|tojson(sort_keys=true)|[1, {'a': 2}]|tojson(separators=(',', ':'))|'é'|tojson(ensure_ascii=true)|range(3)|tojson|
range(3) == range(3), range(0, 5, 2) == range(0, 6, 2), range(0) == range(2, 2), range(3) == [0, 1, 2], range(1, 2, 5) == range(1, 3, 9), range(3) in [range(3)]|d.keys() == d.keys(), d.items() == d.items(), d.values() == d.values(), {}.keys() == {}.items(), d.keys() == d.items(), {'a': 1, 'b': [2]}.items() == {'b': [2], 'a': 1.0}.items(), {'a': 1}.items() == {'a': 2}.items(), {'a': 1}.keys() == {'b': 1}.keys()|range(3)|list, range(1, 6, 2)|list, range(5, 0, -2)|list, range(3)|range(10)[3], range(10)|length, 3 in range(5)|dict(a=1, b=2), dict({'a': 1}, b=2), dict([('x', 1)])|namespace(a=1).a|n is number, n is integer, f is float, f is integer, yes is boolean, yes is integer, s is string, l is sequence, d is mapping, l is iterable, n is iterable, missing is iterable|
n is odd, n is even, n is divisibleby 5, n is divisibleby(2)|n is eq 5, n is == 5, n is gt(3), n is in [5], n is ne 4, n is lessthan 9|none_value is none, none is none, missing is none|yes is true, 1 is true, false is false|s is lower, s is upper, 'abc' is lower|'upper' is filter, 'zz' is filter, 'odd' is test|
n is not none and s is defined|l is sameas l, 1 is sameas 1|people[0].name, people.0.name, people[0]['name']|people|length > 2|'x' if n > 3 and not e else 'y'|(1, 2)|(1,)|()|[]|{}|{'a': 1, 2: 'b', none: 3, true: 4, 1.5: 5}|{'a': 1}['a'], {'a': 1}.a|
"it's", 'say "x"', 'both \' and "'|'tab\t nl\n bs\\ \x41 \u00e9 \101'|['it\'s', 'tab\t', 'é', '\x00', '\u200b']|1_000, 0x1F, 0b11, 0o17, 1e3, 1.5e-3|l.append(1)|d.update({'z': 1})|l.index(1), l.count(3)|s.foo|s.foo()|n()|5.0, 1e22, 1.0e5, 100000000000000000.0, 0.1 + 0.2|true and 1 or 2, false or none, 0 or ''|
messages|selectattr('role', 'equalto', 'user')|list|length|messages|selectattr('tool_calls', 'defined')|list|length|messages|map(attribute='tool_calls', default='-')|list|length|messages[-1].tool_calls[0].function.arguments|tojson|messages[0]['role'] == 'system'|messages[1:]|length|messages|selectattr('role', 'in', ['user', 'system'])|map(attribute='content')|map('trim')|join('|')|
(messages|selectattr('role', 'equalto', 'nobody')) and 'generators are true'|(messages|map(attribute='role'))[0] is undefined|messages|map(attribute='role')|string is string|messages|last is mapping|'%.3g' % 1234.5|'%5.1f|%-8d|%+d' % (3.14159, 42, 7)|'%s' % none|'%r' % 'x'|'%c' % 'x'|'%d' % 'x'|'a' + 1|'a' * -1|[1, 2][true]|-n, +f, -'a'|not missing|
1 if false|loop|caller|strftime_now('%d %B %Y')|strftime_now('%Y-%m-%d %H:%M:%S')|raise_exception('no')|zz|unknown_filter|n is unknown_test|s|attr('upper')|d|attr('b')|cycler('a', 'b').next()|'Ω ΑΣ ΑΣ.'.lower()|'ǆ'.title()|'ß'.upper()|'İ'.lower()|'ŉ'.title()|'ﬁ'.capitalize()|'ΐ'.upper()
"""

_STATEMENTS = [
    "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ m.role }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for x in l %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}{{ loop.depth }};{% endfor %}",
    "{% for x in e %}x{% else %}none{% endfor %}",
    "{% for x in l if x > 1 %}{{ loop.index }}:{{ x }} {% endfor %}",
    "{% for x in l if x > 5 %}{{ x }}{% else %}nothing{% endfor %}",
    "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k, v in d | dictsort %}{{ k }}={{ v }};{% endfor %}",
    "{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{% endfor %}",
    "{% for c in 'héy' %}[{{ c }}]{% endfor %}",
    "{% for x in n %}{% endfor %}",
    "{% for x in missing %}a{% else %}b{% endfor %}",
    "{% for x in range(10) %}{% if x == 3 %}{% continue %}{% endif %}{% if x == 6 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% set x = 1 %}{% for i in l %}{% set x = x + i %}{{ x }},{% endfor %}{{ x }}",
    "{% set ns = namespace(x=1, y='a') %}{% for i in l %}{% set ns.x = ns.x + i %}{% endfor %}{{ ns.x }}{{ ns.y }}{{ ns.z }}",
    "{% set s.x = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set x %}block {{ n }}{% endset %}[{{ x }}]",
    "{% set x | upper | trim %}  block {{ n }} {% endset %}[{{ x }}]",
    "{% if n > 10 %}a{% elif n > 4 %}b{% else %}c{% endif %}",
    "{% if missing %}a{% else %}b{% endif %}{% if yes %}{% set q = 1 %}{% endif %}{{ q }}",
    "{% macro f(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{{ d }}{% endmacro %}{{ f(1) }}|{{ f(1, 3) }}|{{ f(a=5, c=6) }}|{{ f() }}|{{ f.name }}{{ f.arguments }}",
    "{% macro f(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 2, 3, k=4) }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, 2) }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(b=2) }}",
    "{% macro f(a) %}{{ a }}{% endmacro %}{{ f(1, a=2) }}",
    "{% macro f(k) %}{% if k > 0 %}{{ k }}{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(4) }}",
    "{% macro f() %}{{ x }}{% endmacro %}{% set x = 7 %}{{ f() }}{% set x = 8 %}{{ f() }}",
    "{% macro f() %}<{{ caller() }}>{% endmacro %}{% call f() %}in {{ n }}{% endcall %}",
    "{% macro f(l) %}{% for x in l %}{{ caller(x) }}{% endfor %}{% endmacro %}{% call(x) f(l) %}[{{ x }}]{% endcall %}",
    "{% macro f() %}{% endmacro %}{% call f() %}x{% endcall %}",
    "{% filter upper %}abc {{ s }}{% endfilter %}",
    "{% filter replace('a', 'b') | upper %}a{% endfilter %}",
    "{% with a = 1, b = n %}{{ a }}{{ b }}{% endwith %}{{ a }}",
    "{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z }}",
    "{% raw %}{{ not }} {% this %}{% endraw %}",
    "a {%- raw -%}  x  {%- endraw -%} b",
    "{# comment #}a{# b #}\nc{#- d -#} e",
    "a\n  {% if yes %}\n  b\n  {% endif %}\nc\n",
    "a\n  {%- if yes -%}\n  b\n  {%- endif -%}\nc\n\n",
    "a\n  {%+ if yes %}\n  b\n  {%+ endif +%}\nc",
    "  {{ n }}  \n  {{- n -}}  \n x",
    "{% for x in l -%}\n  {{ x }}\n{%- endfor %}\n!",
    "line\r\nwin\rmac\n",
    "{{ {'a': {'b': 1}}['a'] }}{{ '}}' }}{{ \"{%\" }}",
    "{%- for m in messages recursive %}{{ m.role }}{% endfor %}",
    "{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ x }}@{{ loop.depth }}{% endif %}{% endfor %}",
    "{% set j = joiner('; ') %}{% for x in l %}{{ j() }}{{ x }}{% endfor %}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.reset() }}{{ c.current }}",
    "{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}",
    "{% set g = l | map('string') %}{{ g | join }}-{{ g | join }}",
    "{% generation %}{{ n }}{% endgeneration %}",
    "{% for city, group in people | groupby('city') %}{{ city }}:{% for p in group %}{{ p.name }}{% endfor %};{% endfor %}",
    "{% for g in people | groupby('city') %}{{ g.grouper }}{{ g.list | length }}{{ g[0] }}{% endfor %}",
    "{% set x = missing %}{{ x is defined }}{% set y = x.z %}",
    "{{ raise_exception('stop') }}",
    "{% include 'x' %}", "{% for %}", "{% if %}", "{{ }}", "{{ 1 + }}", "{% endif %}", "{% unknown %}", "{{ 'abc }}", "{{ a b }}", "{% for x in l %}", "{{ (1 }}", "{{ 1 is odd is even }}", "{% break %}",
    "{{ f(**{'a': 1}) }}{% macro g(a, b) %}{{ a }}{{ b }}{% endmacro %}",
    "{% macro g(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ g(*[1, 2]) }}{{ g(**{'a': 3, 'b': 4}) }}{{ g(1, **{'b': 2}) }}",
    "{%- set tools = none -%}{%- if tools is not none and tools | length > 0 -%}x{%- else -%}y{%- endif -%}",
    "{{- '<|im_start|>' + messages[0]['role'] + '\\n' + messages[0]['content'] | trim + '<|im_end|>\\n' -}}",
    "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}{% endfor %}",
    "{%- for t in [1,2] %}\n    {{- t }}\n    {%- if not loop.last %}, {% endif %}\n{%- endfor %}",
    "{% if 'x' not in s and n == 5 and (yes or e) %}ok{% endif %}",
    "{% set offset = 1 if messages[0].role == 'system' else 0 %}{% for m in messages[offset:] %}{{ (m.role == 'user') == (loop.index0 % 2 == 0) }}{% endfor %}",
    "\ufeff\u00e9 {{ '\u4e16\u754c' | length }} \u00a0{{- n }}",
]


def _split_expressions():
    """One expression per line part; '|' inside is a filter, so parts end in '|' only at line ends or before a new literal."""
    for line in _EXPRESSIONS.strip().splitlines():
        yield line


def _make_snippets():
    snippets = [(statement, CONTEXT) for statement in _STATEMENTS]
    for line in _split_expressions():
        # Every way to cut the line at its bars gives expressions of which many are valid: each part, and
        # each part with its neighbour as a filter. Invalid ones must fail in both engines.
        parts = line.split("|")
        for i in range(len(parts)):
            for length in (1, 2, 3):
                expression = "|".join(parts[i:i + length])
                if expression.strip():
                    snippets.append(("{{ " + expression + " }}", CONTEXT))
    unique = {}
    for template, context in snippets:
        unique.setdefault(template, context)
    return list(unique.items())


SNIPPETS = _make_snippets()

_TEXTS = ["Hi", "  padded  ", "", "line\nbreak\n", "caf\u00e9 \u4e16\u754c \U0001f600", "<think>\nplan\n</think>\n\nanswer", "{{ not code }}", "it's \"quoted\" & <b>",
          "a" * 200, "\ttab", "<|im_end|>", "1234", "\u00dc\u00df"]
_TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "The weather at a place.", "parameters": {
        "type": "object", "properties": {"place": {"type": "string", "description": "A city."}, "unit": {"type": "string", "enum": ["c", "f"]}}, "required": ["place"]}}},
    {"type": "function", "function": {"name": "add", "description": "Adds \u00e9 numbers.", "parameters": {
        "type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "array", "items": {"type": "integer"}}}}}},
    {"type": "function", "function": {"name": "now", "description": "", "parameters": {"type": "object", "properties": {}}}},
]


def _arguments(rng):
    return rng.choice([{"place": "Paris"}, {"a": 1.5, "b": [1, 2]}, {}, {"nested": {"x": None, "y": True}, "t": "\u00e9\n"}])


def random_conversation(rng):
    """What a chat template is given; sometimes against the rules of its roles."""
    messages = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": rng.choice(_TEXTS)})
    has_tools = rng.random() < 0.4
    for turn in range(rng.randrange(1, 5)):
        content = rng.choice(_TEXTS)
        if rng.random() < 0.1:
            content = [{"type": "text", "text": rng.choice(_TEXTS)} for _ in range(rng.randrange(1, 3))]
        messages.append({"role": "user", "content": content})
        if has_tools and rng.random() < 0.5:
            calls = [{"type": "function", "id": f"call{turn:05d}", "function": {"name": "add", "arguments": _arguments(rng)}}
                     for _ in range(rng.randrange(1, 3))]
            messages.append({"role": "assistant", "content": rng.choice(["", "Let me see.", None]), "tool_calls": calls})
            for call in calls:
                messages.append({"role": "tool", "name": "add", "tool_call_id": call["id"], "content": rng.choice(["3", "{\"x\": 1}", "\u00e9"])})
        if turn < 3 and rng.random() < 0.85:
            message = {"role": "assistant", "content": rng.choice(_TEXTS)}
            if rng.random() < 0.2:
                message["reasoning_content"] = "because"
            messages.append(message)
    if rng.random() < 0.05:
        messages.insert(0, {"role": "assistant", "content": "out of turn"})
    context = {"messages": messages, "add_generation_prompt": rng.random() < 0.7, "bos_token": "<s>", "eos_token": "</s>",
               "unk_token": "<unk>", "pad_token": "<pad>"}
    if has_tools:
        context["tools"] = rng.sample(_TOOLS, rng.randrange(1, 4))
    elif rng.random() < 0.5:
        context["tools"] = None
    if rng.random() < 0.2:
        context["enable_thinking"] = rng.random() < 0.5
    if rng.random() < 0.1:
        context["documents"] = [{"title": "T", "text": "D"}]
    return context


_ATOMS = ["1", "0", "-3", "2.5", "x", "s", "l", "d", "none", "true", "false", "'a b'", "''", "'\u00e9'", "[1, 2]", "[]", "{'a': 1}", "(1, 'b')", "nope", "d.k", "l[0]", "s[1:]", "range(3)", "10", "7"]
_BINARY = ["+", "-", "*", "/", "//", "%", "~", "==", "!=", "<", "<=", ">", ">=", "in", "not in", "and", "or"]
_FILTERS = ["length", "upper", "list", "string", "int", "float", "first", "last", "join(',')", "sort", "reverse|list", "unique|list", "tojson", "default('z')", "abs", "round(1)", "sum", "max", "trim", "title", "e|list|join('')",
            "map('string')|list", "select|list", "replace('a', 'b')", "items|list", "capitalize", "batch(2)|list", "wordcount", "indent", "truncate(4)"]
_TESTS = ["defined", "none", "string", "number", "iterable", "mapping", "sequence", "odd", "true", "callable", "integer", "sameas x", "eq 1", "in [1, 'a b']", "divisibleby 2"]


def random_expression(rng, depth=0):
    kind = rng.random()
    if depth > 3 or kind < 0.25:
        return rng.choice(_ATOMS)
    inner = lambda: random_expression(rng, depth + 1)  # noqa: E731
    if kind < 0.5:
        return f"({inner()} {rng.choice(_BINARY)} {inner()})"
    if kind < 0.75:
        return f"({inner()})|{rng.choice(_FILTERS)}"
    if kind < 0.85:
        return f"({inner()}) is {rng.choice(['', 'not '])}{rng.choice(_TESTS)}"
    if kind < 0.9:
        return f"({inner()} if {inner()} else {inner()})"
    if kind < 0.95:
        return f"[{inner()}, {inner()}]"
    return f"({inner()})[{rng.choice(['0', '-1', '1:', '::-1', chr(39) + 'k' + chr(39), '5'])}]"
