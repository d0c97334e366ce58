"""The corpus of templates_python.py: constructs of Jinja on values of every type."""

import itertools
import json
from pathlib import Path

# Templates written by hand: statements, lines of several expressions, and parts of whole templates.
FOLDER = Path(__file__).parent.parent / "tests/fixtures/hf"
WRITTEN = json.loads((FOLDER / "templates_written.json").read_text())
TOOLS = (
    '[{"type":"function","function":{"name":"move","description":"Go <there> & back",'
    '"parameters":{"type":"object","properties":{"to":{"type":"string","enum":["a","b"]},'
    '"fast":{"type":"boolean","default":false},"speed":{"type":["number","null"]}},'
    '"required":["to"]}}},{"type":"function","function":{"name":"stop","parameters":{}}}]'
)
MESSAGES = (
    '[{"role":"system","content":"Be brief. "},'
    '{"role":"user","content":"  caf\\u00e9 \\ud83e\\udd80\\n"},'
    '{"role":"assistant","content":"it\'s \\"so\\""},'
    '{"role":"user","content":"b\\tc\\r\\nd"}]'
)
CALLS = (
    '[{"role":"user","content":"go"},{"role":"assistant","content":"",'
    '"tool_calls":[{"type":"function","id":"c1","function":{"name":"move",'
    '"arguments":{"to":"b","speed":1.0,"fast":true,"n":null,"l":[1,"x"]}}}]},'
    '{"role":"tool","name":"move","content":"{\\"ok\\": true}"},'
    '{"role":"assistant","content":"<think>\\nhm\\n</think>\\n\\ndone"},'
    '{"role":"user","content":[{"type":"text","text":"and?"},{"type":"image"}]}]'
)
CHATS = {
    "plain": {"messages": MESSAGES, "tools": None, "add_generation_prompt": True},
    "tools": {"messages": CALLS, "tools": TOOLS, "add_generation_prompt": True},
    "calls": {"messages": CALLS, "tools": None, "add_generation_prompt": False},
}

# Expressions of every type.
SCALARS = [
    "none", "nothing", "true", "false", "0", "1", "7", "-3", "2.5", "-0.5", "3.0", "1e16", "1e-7",
    "12345678901234567890", "''", "'a'", "'B'", "'Hello World'", "'a,b,,c'", "'  x '", "'42'",
    "'-3.7'", "'it\\'s'", "'Straße'", "'é🦀'", "'a\\tb\\n'", "'<b>&\"q\"</b>'", "'12ab'",
]
LISTS = [
    "[]", "[1, 2, 3]", "['b', 'a', 'C']", "[3, 1.5, true]", "[1, 'a', none, 2.5]", "[[1, 2], [3]]",
    "()", "(1,)", "('x', 'y')", "range(3)", "range(5, 0, -2)",
]
MAPS = ["{}", "{'a': 1, 'b': 'x'}", "{'b': 2, 'A': 1}", "{1: 'i', 'k': none}", "dict(q=1)"]
OTHERS = ["namespace(a=1)", "messages", "messages[0]", "tools", "('a&b' | e)", "{'a': 1}.items()",
          "{'a': 1}.keys()", "{'a': 1}.values()"]
LAZY = ["(messages | map(attribute='role'))", "([1, 2, 3] | select('odd'))", "range", "dict",
        "namespace", "lipsum", "cycler(1, 2)", "joiner('-')", "raise_exception", "'a'.upper"]
VALUES = SCALARS + LISTS + MAPS + OTHERS
FEW = ["none", "nothing", "true", "0", "2", "-3", "2.5", "''", "'a'", "'ab%s'", "[]", "[1, 'a']",
       "(1,)", "{'a': 1}", "range(3)", "('<' | e)", "dict"]


def case(kind, template, **more):
    return {"kind": kind, "template": template, **more}


def printing():
    for value in VALUES:
        yield case("printing", "{{ %s }}" % value)
        for form in ["[%s]", "(%s,)", "(%s, 1)", "{'k': %s}", "%s | string", "%s | list",
                     "%s | tojson", "%s | tojson(indent=2)", "%s | pprint", "[%s] | string",
                     "'' ~ %s ~ ''", "'%%s' %% [%s]", "not %s", "%s and 1", "%s or 1",
                     "'y' if %s else 'n'", "'y' if %s", "-%s", "+%s", "%s | length", "%s is true",
                     "%s.a", "%s['a']", "%s[0]", "%s[-1]", "%s.0", "%s.items", "%s.count",
                     "%s.b.c", "%s()", "%s.get('a')", "%s.keys() | list", "%s[1:]", "%s[::-1]",
                     "[%s, [%s]] | tojson(sort_keys=true)"]:
            yield case("printing", "{{ %s }}" % form.replace("%%", "%").replace("%s", value)
                       if "'%%s'" not in form else "{{ '%%s' %% [%s] }}" % value)
        yield case("printing", "{%% for x in %s %%}[{{ x }}]{%% else %%}none{%% endfor %%}" % value)
        yield case("printing", "{%% for k, v in %s %%}{{ k }}={{ v }};{%% endfor %%}" % value)
        yield case("printing", "{%% if %s %%}yes{%% else %%}no{%% endif %%}" % value)
        yield case("printing", "{%% set a, b = %s %%}{{ a }}{{ b }}" % value)


def tests():
    names = ["boolean", "callable", "defined", "escaped", "even", "false", "float", "integer",
             "iterable", "lower", "mapping", "none", "number", "odd", "sequence", "string", "true",
             "undefined", "upper", "filter", "test"]
    for name, value in itertools.product(names, VALUES + LAZY):
        yield case("tests", "{{ %s is %s }}" % (value, name))
    binary = ["divisibleby", "eq", "equalto", "==", "ne", "!=", "lt", "lessthan", "<", "le", "<=",
              "gt", "greaterthan", ">", "ge", ">=", "in", "sameas"]
    for name in ["eq", "ne", "lt", "ge", "in", "divisibleby", "sameas"]:
        for a, b in itertools.product(FEW, FEW):
            yield case("tests of two", "{{ %s is %s(%s) }}" % (a, name, b))
    for name in binary:
        if name.isalpha():
            yield case("tests of two", "{{ 3 is %s 3 }} {{ 3 is not %s(2) }}" % (name, name))
            yield case("tests of two", "{{ 'a' is %s 'ab' }}" % name)
        yield case("tests of two", "{{ [1, 2, 3] | select('%s', 2) | list }}" % name)
        yield case("tests of two", "{{ [1, 2, 3] | reject('%s', 2) | list }}" % name)
    for name in ["upper", "tojson", "nope", "e", "d", "map"]:
        yield case("tests", "{{ '%s' is filter }} {{ '%s' is test }}" % (name, name))
    for name in ["odd", "==", "in", "nope", "sameas", "true"]:
        yield case("tests", "{{ '%s' is filter }} {{ '%s' is test }}" % (name, name))


def operators():
    signs = ["+", "-", "*", "/", "//", "%", "**", "~", "==", "!=", "<", "<=", ">", ">=", "in",
             "not in", "and", "or"]
    for sign, a, b in itertools.product(signs, FEW, FEW):
        yield case("operators", "{{ %s %s %s }}" % (a, sign, b))
    numbers = ["0", "1", "7", "-7", "3", "-3", "2.5", "-2.5", "0.1", "1e300", "true", "false",
               "9223372036854775807", "-0.0"]
    for sign, a, b in itertools.product(["+", "-", "*", "/", "//", "%", "**"], numbers, numbers):
        if sign != "**" or not b.startswith("9"):
            yield case("numbers", "{{ %s %s %s }}" % (a, sign, b))
    for text in ["1 + 2 * 3", "(1 + 2) * 3", "2 ** 3 ** 2", "-2 ** 2", "(-2) ** 2", "2 ** -1",
                 "10 - 4 - 3", "7 // 2 * 2", "7 % 4 * 2", "1 ~ 2 + 3", "1 + 2 ~ 3", "'a' ~ 1 * 2",
                 "1 < 2 < 3", "1 < 2 > 3", "3 > 2 > 1", "1 == 1 == 1", "1 in [1] in [[1]]",
                 "not 1 == 2", "not true and false", "true or false and false", "1 if 0 else 2",
                 "1 if 0 else 2 if 0 else 3", "'a' in 'abc' and 'd' not in 'abc'", "1 is odd + 1",
                 "not 1 is odd", "1 + 1 is odd", "-1 | abs", "-(1 | abs)", "2 * 3 | string",
                 "'a' + 'b' | upper", "('a' + 'b') | upper", "[1,2] + [3]", "[1] * 3", "3 * 'ab'",
                 "'ab' * -1", "(1, 2) + (3,)", "[1] + (2,)", "'a' 'b'", "'a' ~ none ~ true ~ 1.0",
                 "1 / 2", "4 / 2", "7 // 2.0", "-7 // 2", "-7 % 3", "7 % -3", "5.5 % 2",
                 "0.1 + 0.2",
                 "1e3", "1_000", "0x1F", "0b101", "0o17", "1.5e-3", "1E5", "007", "10 ** 20",
                 "2 ** 64", "9007199254740993", "99999999999999999999999999999999999999999999",
                 "1.0 == 1", "true == 1", "'1' == 1", "[1] == (1,)", "{'a': 1} == {'a': 1.0}",
                 "none == none", "nothing == none", "nothing == nothing2", "[1, 2] < [1, 3]",
                 "(1, 'a') < (1, 'b')", "'a' < 'b'", "'a' < 'B'", "true + true", "true * 'ab'",
                 "1 is not none", "x is defined and x.y", "1 is in [1]", "1 is not in [1]",
                 "1 not in [1]", "not (1 in [1])", "1.0 // 0.3", "1 // 0", "1 % 0", "1.0 / 0",
                 "true and 'x'", "'' or 'y'", "0 or none", "1 and 0", "none and 1", "[] or {}",
                 "1 if true", "(1 if false) is defined", "a if a is defined else 'd'", "a.b.c",
                 "a['b']['c']", "a.b is defined", "a.b.c is defined", "loop", "loop.index", "self",
                 "caller", "varargs", "_", "True", "False", "None", "true.real", "(1).real",
                 "1.real", "1.5.real", "'a'.b", "'a' . upper()", "[1,2,3][1]", "[1,2,3][-1]",
                 "[1,2,3][5]", "[1,2,3]['a']", "{'a': 1}[0]", "'abc'[1]", "'abc'[-1]", "'abc'[9]",
                 "{1: 'a'}[1]", "{1: 'a'}[1.0]", "{1: 'a'}[true]", "{1: 'a', true: 'b'}",
                 "{'a': 1, 'a': 2}", "{none: 1, 1.5: 2, (1, 2): 3}", "{[1]: 2}", "[1, 2,]", "(1)",
                 "1,", "1, 2", "()", "{}", "{'a': 1,}", "[[]]", "foo(1, 2,)", "range(0)"]:
        yield case("operators", "{{ %s }}" % text)
    for text in ["1 +", "(1", "[1", "'a", "1 1", "a b", "{'a'}", "a.", "|upper", "1 |", "a[",
                 "is 1",
                 "1 is", "1 ? 2", "a = 1", "a := 1", "lambda x: x", "[x for x in y]", "a && b",
                 "!a", "f'a'", "a if", "not", "*a", "a(**b)", "a(*[1])", "`a`", "$a", "a; b",
                 "1..2",
                 "@", "a->b", "'\\'", "a not b", "if a", "for a in b", "% 2"]:
        yield case("refusals", "{{ %s }}" % text)
    for base in ["'abcdef'", "[1, 2, 3, 4]", "(1, 2, 3)", "range(6)", "'é🦀x'", "messages"]:
        for part in ["[:]", "[1:]", "[:2]", "[1:3]", "[-2:]", "[:-1]", "[::2]", "[::-1]",
                     "[3:0:-1]",
                     "[-1:-3:-1]", "[9:]", "[:9]", "[2:1]", "[none:2]", "[::none]", "[::0]",
                     "['a':]", "[1.0:]", "[true:]", "[0]", "[-1]", "[100]", "[-100]", "[1:2, 0]",
                     "[0, 1]"]:
            yield case("slices", "{{ %s%s }}" % (base, part))


def escapes():
    bodies = ["\\/", "\\n", "\\t", "\\r", "\\\\", "\\'", '\\"', "\\a", "\\b", "\\f", "\\v", "\\0",
              "\\07", "\\101", "\\1012", "\\377", "\\400", "\\8", "\\x41", "\\xe9", "\\x4", "\\xg",
              "\\u2581", "\\u00e9", "\\u41", "\\U0001F980", "\\U0001F98", "\\U99999999",
              "\\N{BULLET}", "\\N{GREEK SMALL LETTER ALPHA}", "\\N{no}", "\\N", "\\d", "\\s", "\\w",
              "\\{", "\\}", "\\%", "\\ ", "\\é", "é", "🦀", "\u2028", "\x7f", "\\x00", "\\u2028",
              "\\x1b[0m", "a\\\nb", "a\nb", "a\r\nb", "a\rb", "\\\r\nb", "\\c", "\\z", "{{", "}}",
              "{%", "%}", "{#", "#}", "-%}", "\\\\n", "\\\\\\n", "<|x|>", "\\u003c", "\\e", "\\.",
              "\\(", "\\[", "\\|", "\\*", "\\ud83e", "\\ud83e\\udd80", "\xad", "\u200b", "\ufeff",
              "\U000e0001", "\u0300", "\xa0", "\\'\\\"", "'\\\"", "\x85", "\x1c", "\x0b"]
    for body, quote in itertools.product(bodies, "'\""):
        if quote == body.replace("\\" + quote, ""):
            continue
        literal = quote + body + quote
        yield case("escapes", "{{ %s }}" % literal)
        yield case("escapes", "{{ [%s] }}" % literal)
        yield case("escapes", "{{ %s | tojson }} {{ %s | length }}" % (literal, literal))
        yield case("escapes", "{%% if %s in 'ab' %%}x{%% endif %%}{%% set a = %s %%}{{ a }}"
                   % (literal, literal))
        yield case("escapes", "{{ %s.split('\\n') }}" % literal)
    for body in bodies:
        yield case("escapes", "a %s b{# %s #}" % (body, body))


def methods():
    texts = ["''", "'abc'", "'Hello World'", "'a,b,,c'", "'  x y\\n'", "'ABC'", "'42'", "'-42'",
             "'it\\'s Bill\\'s'", "'Straße ǆ'", "'É🦀é'", "'aXbXc'", "'a\\tb'",
             "'a\\nb\\r\\nc\\x0bd'",
             "'\\x1cx\\x85'", "'x1 y2-z_w'", "'٣²½'", "'İıſ'"]
    for name in ["capitalize", "casefold", "isalnum", "isalpha", "isascii", "isdecimal", "isdigit",
                 "isidentifier", "islower", "isnumeric", "isprintable", "isspace", "istitle",
                 "isupper", "lower", "lstrip", "rstrip", "strip", "swapcase", "title", "upper",
                 "split", "rsplit", "splitlines", "expandtabs", "encode", "partition", "join",
                 "format", "nope"]:
        for text in texts:
            yield case("methods", "{{ [%s.%s()] }}" % (text, name))
    calls = ["strip('a')", "strip(none)", "strip('xX ')", "lstrip('aH')", "rstrip('cd')",
             "split(',')",
             "split(',', 1)", "split(none, 1)", "split(' ')", "split('')", "split(sep=',')",
             "split(',', maxsplit=1)", "split(maxsplit=1)", "rsplit(',')", "rsplit(',', 1)",
             "rsplit(none, 1)", "rsplit(maxsplit=1)", "split(1)", "partition(',')",
             "rpartition(',')", "partition('')", "splitlines(true)", "splitlines(keepends=true)",
             "replace('a', 'z')", "replace('a', 'z', 1)", "replace('', '-')",
             "replace('a', 'z', -1)",
             "replace('a')", "replace('X', '', count=1)", "startswith('a')",
             "startswith(('a', 'H'))",
             "startswith('b', 1)", "startswith(['a'])", "startswith('')", "endswith('c')",
             "endswith(('c', 'd'))", "endswith('b', 0, 2)", "find('b')", "find('zz')",
             "find('b', 2)",
             "find('')", "rfind('b')", "rfind('X')", "index('b')", "rindex('b')", "count('a')",
             "count('')", "count('X', 2)", "removeprefix('a')", "removesuffix('c')",
             "removeprefix('zz')", "zfill(5)", "zfill(0)", "ljust(6)", "ljust(6, '*')", "rjust(6)",
             "rjust(6, '*')", "center(6)", "center(7, '*')", "center(6, 'ab')", "expandtabs(4)",
             "join(['1', '2'])", "join([1])", "join('xy')", "join({'a': 1})", "join([])",
             "upper(1)",
             "encode('utf-8')", "translate({97: 'b'})", "maketrans('a', 'b')", "format(1)",
             "isidentifier()", "__len__()", "__class__", "upper", "upper() ~ 1", "lower().upper()",
             "strip().split()", "split()[0]", "split(',')[-1]", "split('a')[1:]",
             "title().swapcase()",
             "find", "decode()"]
    for call, text in itertools.product(calls, texts):
        yield case("methods", "{{ [%s.%s] }}" % (text, call))
    lists = ["[]", "[1, 2, 1]", "['a', 'b']", "(1, 2, 1)", "()", "range(3)"]
    for call in ["index(1)", "index(9)", "index(1, 1)", "count(1)", "count('a')", "copy()",
                 "append(1)", "pop()", "extend([1])", "insert(0, 1)", "remove(1)", "reverse()",
                 "sort()", "clear()", "index('a')", "count", "start", "stop", "step", "nope()", "a",
                 "__len__()", "index(true)", "count(1.0)"]:
        for value in lists:
            yield case("methods", "{{ %s.%s }}" % (value, call))
    maps = ["{}", "{'a': 1, 'b': 2}", "{1: 2}", "{'items': 3, 'get': 4}", "dict(a=[1])",
            "dict({'x': 1}, y=2)", "dict([('a', 1)])", "messages[0]"]
    for call in ["get('a')", "get('z')", "get('z', 5)", "get('a', default=5)", "get(1)", "get()",
                 "items()", "keys()", "values()", "copy()", "items() | list", "items() | length",
                 "keys() | list", "values() | list", "items", "items is defined",
                 "items is callable",
                 "get", "keys", "pop('a')", "update({'c': 1})", "setdefault('c', 1)", "clear()",
                 "popitem()", "fromkeys(['a'])", "nope()", "nope", "a", "['items']", "['get']",
                 "['a']", "items() | first", "items() | last", "items() | sort", "keys()[0]",
                 "items()[0]", "get([])", "keys() | join(',')", "__class__"]:
        for value in maps:
            join = "" if call.startswith("[") else "."
            yield case("methods", "{{ %s%s%s }}" % (value, join, call))
    for value in ["1", "2.5", "true", "none", "nothing"]:
        for call in ["real", "imag", "is_integer()", "bit_length()", "upper()", "conjugate()",
                     "numerator", "foo", "foo()", "as_integer_ratio()", "hex()"]:
            yield case("methods", "{{ (%s).%s }}" % (value, call))


def formats():
    codes = ["%s", "%r", "%d", "%i", "%f", "%.2f", "%5.1f", "%e", "%g", "%G", "%x", "%X", "%o",
             "%c",
             "%5s", "%-5s|", "%05d", "%+d", "% d", "%#x", "%%", "%.3s", "%*d", "%(a)s", "%(a)05d",
             "%z", "%", "%s %s", "%5%", "%ld", "%a", "%u", "%E", "%#o", "%.0f", "%10.3e", "%-8d|"]
    values = ["1", "-42", "3.7", "'a'", "'é'", "none", "true", "[1]", "(1, 2)", "('a',)",
              "{'a': 7}",
              "()", "1e20", "97", "'<' | e", "nothing", "123456.789", "0"]
    for code, value in itertools.product(codes, values):
        yield case("formats", "{{ '%s' %% (%s) }}" % (code, value))
        yield case("formats", "{{ '%s' | format(%s) }}" % (code, value))
    for code in ["{}", "{0}", "{0} {0}", "{1} {0}", "{} {}", "{a}", "{a} {}", "{{}}", "{0.a}",
                 "{0[a]}", "{0[0]}", "{a[b]}", "{:5}|", "{:<5}|", "{:>5}|", "{:^5}|", "{:*^7}|",
                 "{:05}", "{:+}", "{:.2f}", "{:,}", "{:_}", "{:x}", "{:#x}", "{:b}", "{:e}", "{:g}",
                 "{:%}", "{:.1%}", "{:s}", "{:d}", "{:c}", "{!r}", "{!s}", "{!a}", "{:{}}",
                 "{:{w}}",
                 "{", "}", "{0", "{!z}", "{:zz}", "{} {0}", "{:n}", "{:010.3f}", "{:=5}", "{: }",
                 "{:.3}", "{:>{w}}|", "{:o}", "{:X}", "{:,.2f}", "{0:}", "{!r:>6}|"]:
        for args in ["", "1", "-42", "3.7", "'a'", "none", "true", "[1]", "1, 2", "'a', 'b'",
                     "{'a': 7}", "a=1", "1, a=2, w=6", "'x', w=4", "1234567.891", "a={'b': 'c'}"]:
            yield case("formats", "{{ '%s'.format(%s) }}" % (code, args))
    for code in ["{a}", "{a:>4}", "{b}", "{a[0]}"]:
        yield case("formats", "{{ '%s'.format_map({'a': 'xy'}) }}" % code)


FILTERS = {
    "abs": [""], "attr": ["('a')", "('upper')", "('items')", "('nope')"],
    "batch": ["(2)", "(2, 'x')", "(0)"], "capitalize": [""], "center": ["", "(9)", "(width=7)"],
    "count": [""], "d": ["('z')"], "default": ["('z')", "('z', true)", "", "(default_value=1)",
                                               "(boolean=true)"],
    "dictsort": ["", "(true)", "(false, 'value')", "(reverse=true)", "(by='value')", "(by='x')"],
    "e": [""], "escape": [""], "filesizeformat": ["", "(true)"], "first": [""],
    "float": ["", "(7.5)", "(default='n')"], "forceescape": [""], "format": ["", "(1)", "('a')"],
    "groupby": ["('a')", "(0)", "('role')"],
    "indent": ["", "(2)", "(2, true)", "(first=true)", "(2, blank=true)", "('> ')", "(width=1)"],
    "int": ["", "(5)", "(0, 16)", "(default=-1)", "(base=2)", "(default='n')"], "items": [""],
    "join": ["", "(',')", "(', ', attribute='a')", "(attribute=0)", "(1)", "(d='-')"], "last": [""],
    "length": [""], "list": [""], "lower": [""],
    "map": ["('upper') | list", "(attribute='a') | list", "(attribute=0) | list",
            "('string') | join('|')", "('nope') | list", "(attribute='a', default='q') | list",
            "('default', 'x') | list", "() | list", "('int') | sum", "('length') | list",
            "(attribute='a.b') | list"],
    "max": ["", "(attribute='a')", "(case_sensitive=true)"],
    "min": ["", "(case_sensitive=true)", "(true)"],
    "pprint": [""], "random": [" is defined"],
    "reject": [" | list", "('odd') | list", "('none') | list", "('in', [1, 'a']) | list",
               "('nope') | list"],
    "rejectattr": ["('a') | list", "('role', 'equalto', 'user') | list"],
    "replace": ["('a', 'z')", "('a', 'z', 1)", "('', '.')", "(1, 2)", "('l', '', count=1)"],
    "reverse": ["", " | list"],
    "round": ["", "(1)", "(1, 'floor')", "(method='ceil')", "(0, 'floor') | int", "(-1)",
              "(precision=2)", "(method='x')"],
    "safe": [""],
    "select": [" | list", "('string') | list", "('defined') | list", "('odd') | list",
               "('equalto', 1) | list"],
    "selectattr": ["('a') | list", "('role', '==', 'user') | list",
                   "('role', 'in', ['user']) | list",
                   "('a', 'defined') | list", "('content', 'string') | list", "('a.b') | list"],
    "slice": ["(2) | list", "(2, 'x') | list", "(3) | list"],
    "sort": ["", "(true)", "(reverse=true)", "(case_sensitive=true)", "(attribute='a')",
             "(attribute='role')", "(attribute='a,b')"],
    "string": [""], "striptags": [""],
    "sum": ["", "(start=1)", "('a')", "(attribute='a')", "(start=[])"], "title": [""],
    "tojson": ["", "(2)", "(indent=4)", "(ensure_ascii=true)", "(ensure_ascii=false)",
               "(separators=(',', ':'))", "(sort_keys=true)", "(indent=0)", "(indent=none)",
               "(indent='\\t')"],
    "trim": ["", "('x')", "(chars='H')"],
    "truncate": ["", "(5)", "(5, true)", "(5, true, '')", "(8, false, '..', 0)", "(length=4)",
                 "(3, leeway=0)"],
    "unique": [" | list", "(true) | list", "(attribute='a') | list"],
    "upper": [""], "urlencode": [""], "urlize": ["", "(5)"], "wordcount": [""],
    "wordwrap": ["", "(5)", "(3, false)", "(5, wrapstring='|')", "(4, break_on_hyphens=false)"],
    "xmlattr": ["", "(false)"], "nope": [""], "chain": ["([1]) | list"], "zip": ["([1]) | list"],
    "split": ["(',')"], "lines": [""], "bool": [""],
}
LONG = ["'The quick brown fox jumps over the lazy-dog and runs away'", "'one\\ntwo\\n\\nthree'",
        "'x' * 300", "'averyveryverylongword in-between'", "1000", "1500000", "12345.678", "-1.25",
        "'http://a.org/x?y=1 mail me@x.org www.b.com (https://c.net).'", "'a b/c?d=é&e'",
        "'<p>Hi <b>you</b> &amp; <!-- c --> me</p>'", "'0x1F'", "'1_000'", "'inf'", "'1e3'",
        "0.125",
        "2.675", "1e400", "[{'a': 2, 'b': 1}, {'a': 1, 'b': 2}]", "[{'a': {'b': 3}}, {'a': {}}]",
        "[{'a': 1}, {'b': 1}]", "[('x', 2), ('y', 1), ('x', 3)]", "['b', 'B', 'a', 'A', 'b']",
        "[1, true, 1.0, '1']", "[0, 1, '', 'x', none]", "{'a': none, 'b': '<', 'c': 1}",
        "[1, 2, 3, 4, 5, 6, 7]", "['foo bar', 'baz']", "tools_list"]


def filters():
    for name, forms in FILTERS.items():
        for form, value in itertools.product(forms, VALUES + LONG):
            value = TOOLS.replace("false", "False").replace("null", "None") \
                if value == "tools_list" else value
            if name in ("tojson", "truncate", "urlize") and value == "nothing":
                continue
            yield case("filter " + name, "{{ (%s) | %s%s }}" % (value, name, form))
    for chain in ["'abc' | upper | lower | title", "[1, 2] | map('string') | join('-') | length",
        "messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list",
                  "messages | map(attribute='role') | unique | list",
                  "messages | rejectattr('role', 'in', ['user', 'system']) | list | length",
                  "messages | groupby('role') | list", "(messages | groupby('role'))[0].grouper",
                  "messages | groupby('role') | map(attribute='list') | map('length') | list",
                  "messages | map('tojson') | join(';')", "messages | first | tojson",
                  "(messages | last).content", "messages[0] | items | list",
                  "messages[0] | dictsort",
                  "messages | map(attribute='role') | length", "(messages | map('upper'))[0]",
                  "messages | sum(attribute='x')", "[[1], [2]] | sum(start=[])", "[] | first",
                  "[] | last", "[] | max", "[] | min", "[] | join", "[] | sum",
                  "([] | first) is defined",
                  "'a' | default('b') | upper", "nothing | default", "nothing | d('x', true)",
                  "none | default('x')", "none | default('x', true)",
                  "'' | default('x', boolean=True)",
                  "[3, 1, 2] | sort | first", "[3, 1, 2] | sort | reverse | list", "'cba' | sort",
                  "'cba' | reverse", "'cba' | list", "'a' | list | length", "{'a': 1} | list",
                  "{'a': 1} | length", "{'a': 1} | items | list", "1 | string | length",
                  "1.0 | int",
                  "'3.9' | int", "'x' | int", "'x' | float", "none | int", "none | string",
                  "true | int", "true | string", "3.7 | round | int", "2.5 | round", "3.5 | round",
                  "-2.5 | round", "1.005 | round(2)", "7 | round(-1)", "'a' | e | e",
                  "'<' | safe | e",
                  "'<' | e ~ '<'", "('<' | e) + '<'", "'<' + ('<' | e)", "('<' | e) * 2",
                  "('%s' | safe) % '<'", "('{}' | safe).format('<')", "('<a>' | e).upper()",
                  "('a' | safe).join(['<', 'b'])", "['<', 'b'] | join('>' | safe)",
                  "('<' | e) | tojson",
                  "['a' | safe]", "('a' | safe) == 'a'", "{'a' | safe: 1}",
                  "('a,b' | safe).split(',')",
                  "('ab' | safe)[0]", "('x' | safe) is escaped", "('x' | safe) is string"]:
        yield case("chains", "{{ %s }}" % chain)


def globals_():
    for text in ["range(3) | list", "range(1, 3) | list", "range(5, 1, -2) | list", "range(3)",
                 "range(1, 10, 2)", "range(3) | length", "range(3)[1]", "range(3)[-1]",
                 "range(3)[5]",
                 "1 in range(3)", "range('a')", "range()", "range(1.0)", "range(0)",
                 "range(3) | last",
                 "range(3) | sum", "range(1000000)", "range(3) == range(3)", "range(3)[1:]",
                 "range(true)",
                 "dict(a=1, b=2)", "dict()", "dict({'a': 1}, b=2)", "dict([['a', 1]])", "dict",
                 "range", "dict(a=1).a", "lipsum is defined", "lipsum(1) | length > 0", "lipsum()",
                 "cycler('a', 'b')", "joiner", "namespace", "cycler()", "namespace().x",
                 "namespace(a=1).a",
                 "namespace({'a': 1}, b=2).b", "raise_exception('x')", "raise_exception()",
                 "strftime_now", "strftime_now('%Y')", "strftime_now()", "caller", "self", "nope()",
                 "nope.nope()", "messages()", "messages.nope()", "messages.0.role",
                 "messages[0]['role']",
                 "messages[0].content.strip()", "messages[-1].role", "messages | length",
                 "bos_token",
                 "bos_token + 'x'", "tools", "documents", "add_generation_prompt", "tools is none",
                 "tools is defined", "tools | length", "documents or []",
                 "messages[0].get('name', 'x')",
                 "'name' in messages[0]", "messages[0].name is defined", "messages[0].name is none",
                 "messages[0]['name']", "messages[9]", "messages[9].role", "messages.role",
                 "print('a')",
                 "len(messages)", "str(1)", "enumerate(messages)", "zip([1], [2])", "int('3')",
                 "debug()",
                 "gettext('a')", "loop", "super()", "true", "True"]:
        yield case("globals", "{{ %s }}" % text)


def written():
    for text in WRITTEN["statements"]:
        yield case("statements", text)
    for text in WRITTEN["lines"]:
        yield case("lines", text)


def spaces():
    pieces = ["{% if 1 %}", "{%- if 1 %}", "{% if 1 -%}", "{%+ if 1 %}", "{% if 1 +%}",
              "{%- if 1 -%}"]
    ends = ["{% endif %}", "{%- endif %}", "{% endif -%}", "{%+ endif %}", "{% endif +%}"]
    gaps = ["", " ", "\n", "  \n  ", "\n\n", "\t", "x\n  ", "\r\n", "\r\n  ", "\r", "\x0b",
            "\xa0", "\u2028"]
    for a, b, gap in itertools.product(pieces, ends, gaps):
        yield case("spaces", "a%s%s%sb%s%s%sc%s" % (gap, a, gap, gap, b, gap, gap))
    for gap in gaps:
        for mid in ["{{ 1 }}", "{{- 1 }}", "{{ 1 -}}", "{{- 1 -}}", "{# c #}", "{#- c #}",
                    "{# c -#}",
                    "{#- c -#}", "{#+ c #}", "{# c +#}", "{{+ 1 }}", "{% set x = 1 %}",
                    "{%- set x = 1 -%}",
                    "{% raw %} r {% endraw %}", "{%- raw -%} r {%- endraw -%}",
                    "{% generation %} g "
                    "{% endgeneration %}", "{%- generation -%} g {%- endgeneration -%}",
                    "{{ 'a\r\nb' }}"]:
            yield case("spaces", "a%s%s%sb" % (gap, mid, gap))
            yield case("spaces", "%s%s%s" % (gap, mid, gap))
            yield case("spaces", "{{ 0 }}%s%s%s{{ 2 }}" % (gap, mid, gap))
            yield case("spaces", "{% if 1 %}" + "%s%s%s{%% endif %%}" % (gap, mid, gap))
    for end in ["", "\n", "\n\n", "\r\n", "\r", "\r\n\r\n", " \n", "{{ '\n' }}", "{{ m }}\n",
                "{% if 1 %}\n\n"
                "{% endif %}\n\n"]:
        yield case("spaces", "a" + end)


def dates():
    seconds = [0, 951782400, 1709211909, 1704067199, 1704067200, 1735603200, 1767225599, 4107542400,
               1764547200, 1783036805, 1136073600, 1230768000]
    codes = [c for c in "aAbBcCdDeFgGhHIjklmMnpPrRsSTtuUvVwWxXyYzZ%fEOqQiLJKN+"]
    for code in codes:
        for flag in ["", "-", "_", "0", "^", "#", "E", "O", "5", "-5", "010", "_7", "^10", "#^"]:
            yield case("dates", "{{ [strftime_now('%%%s%s')] }}" % (flag, code), now=seconds[2])
    for now in seconds:
        for form in ["%d %b %Y", "%Y-%m-%d", "%B %-d, %Y", "%j %U %w %e", "%G-W%V-%u",
                     "%W %y %C %g",
                     "%I:%M %p", "%c|%x|%X|%D|%r|%R|%T", "%A, %d %B %Y", "%s", "%-I%P %-j",
                     "%H%%", "%",
                     "", "é %d", "100%", "%-", "%_d %^a %#Z", "\\n%d"]:
            yield case("dates", "{{ strftime_now('%s') }}" % form, now=now)
    yield case("dates", "{% set d = strftime_now('%d') | int %}{{ d + 1 }}", now=seconds[2])
    yield case("dates", "{{ strftime_now(format='%d') }}", now=seconds[2])
    yield case("dates", "{{ strftime_now(1) }}{{ strftime_now is callable }}", now=seconds[2])


def whole():
    for i, parts in enumerate(itertools.product(*WRITTEN["parts"].values())):
        text = "".join(parts)
        text = text if i % 4 else text.replace("\n", "\r\n")
        yield case("whole", text, chat=["plain", "tools", "calls"][i % 3])


def corpus():
    for part in [printing, tests, operators, escapes, methods, formats, filters, globals_, written,
                 spaces, dates, whole]:
        yield from part()
