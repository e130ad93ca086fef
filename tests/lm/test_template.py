"""Chat templates are code from a file: they render what is meant and can do nothing else."""

from __future__ import annotations

import sys
import time

import pytest

from uhlm_edge.common.errors import ModelError
from uhlm_edge.lm.template import ChatTemplate, Message

TALK: list[Message] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi <|end|> {{ 7 * 7 }} {% raw %}"},
]

CHATML = """{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message.content|trim + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"""

LLAMA2 = """{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}\
{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}\
{% set system_message = false %}{% endif %}{% for message in loop_messages %}\
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate') }}{% endif %}\
{% if loop.index0 == 0 and system_message %}{% set content = '<<SYS>>\\n' + system_message + \
'\\n<</SYS>>\\n\\n' + message['content'] %}{% else %}{% set content = message['content'] %}\
{% endif %}{% if message['role'] == 'user' %}{{ bos_token ~ '[INST] ' ~ content.strip() ~ \
' [/INST]' }}{% else %}{{ ' ' ~ content.strip() ~ ' ' ~ eos_token }}{% endif %}{% endfor %}"""


def render(source: str | None, messages: list[Message] | None = None) -> str:
    return ChatTemplate(source, "<s>", "</s>").render(TALK if messages is None else messages)


# What is meant


def test_a_usual_template_renders_the_conversation_and_nothing_in_it() -> None:
    assert render(CHATML) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nHi <|end|> {{ 7 * 7 }} {% raw %}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert not ChatTemplate(CHATML).render(TALK, reply=False).endswith("assistant\n")


def test_a_template_with_roles_that_alternate() -> None:
    assert render(LLAMA2).startswith("<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi")
    with pytest.raises(ModelError, match="roles must alternate"):
        render(LLAMA2, [TALK[1], TALK[1]])


def test_without_a_template_there_is_a_plain_one() -> None:
    assert render(None) == f"<s>system: Be brief.\nuser: {TALK[1]['content']}\nassistant:"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ 'a' ~ 1 ~ none ~ [2] }}", "a1None[2]"),
        ("{{ ['a', 'b'] | join('-') }}{{ ', '.join(['c', 'd']) }}", "a-bc, d"),
        ("{{ messages | map(attribute='role') | join(' ') }}", "system user"),
        ("{{ messages | join('+', attribute='role') }}", "system+user"),
        ("{{ 'aXbX' | replace('X', '-') }}{{ 'aXbX'.replace('X', '', 1) }}", "a-b-abX"),
        ("{% macro m(x) %}<{{ x }}>{% endmacro %}{{ m(m('a')) }}", "<<a>>"),
        ("{% set x %}a{{ 1 + 1 }}{% endset %}{{ x * 2 }}", "a2a2"),
        ("{{ {'a': [1, 'é']} | tojson }}", '{"a": [1, "\\u00e9"]}'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{{ 'a\nb' | indent(2) }}", "a\n  b"),
        ("{{ '</think>x'.split('</think>')[-1] }}{{ ' y '.strip() }}", "xy"),
        ("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
         "{% if ns.n == 1 %}{% continue %}{% endif %}{{ m.role }}{% endfor %}", "user"),
        ("{{ '%s and %05.1f' % ('a', 2) }}{{ 7 % 4 }}", "a and 002.03"),
        ("{{ messages[::-1][0].role }}{{ messages | length }}{{ undefined_name }}", "user2"),
    ],
)  # fmt: skip
def test_what_templates_use_works(source: str, text: str) -> None:
    assert render(source) == text


def test_a_long_conversation_is_no_bomb() -> None:
    long: list[Message] = [{"role": "user", "content": "word\n" * 40_000}] * 8
    for source in (
        CHATML,
        "{{ messages | map(attribute='content') | join }}",
        "{% for m in messages %}{{ m.content.replace('\\n', ' || ') ~ m.content }}{% endfor %}",
    ):
        assert len(render(source, long)) > 8 * 150_000


# What is refused


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ ''['__class__'] }}{{ (''|attr('__class__')).__base__.__subclasses__() }}",
        "{{ messages.append.__self__.__class__.__mro__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ raise_exception.__globals__['sys'].exit() }}",
        "{{ strftime_now.__code__.co_consts }}",
        "{{ self.__init__.__globals__.__builtins__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ namespace.__init__.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'role': 'x'}) }}",
        "{{ messages.clear() }}",
        "{{ '{0.__class__}'.format(1) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{% extends 'base' %}",
        "{{ (messages | map('attr', '__class__') | list)[0].mro() }}",
    ],
)
def test_an_escape_is_refused(source: str) -> None:
    try:
        text = render(source)
    except ModelError:
        return
    assert "class" not in text
    assert "<" not in text


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('Only user\\nand assistant\\x1b[2J') }}",
        "{% if",
        "{{ nothing.attribute.of.it }}",
        "{{ messages[99].role.x }}",
        "{{ 1 // 0 }}",
        "{{ 'a' + 1 }}",
        "{{ messages | no_such_filter }}",
        "{{ 'a' | int(base='x') }}{{ [1] | first(2) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ " + "(" * 5000 + ")" * 5000 + " }}",
        "{% if 1 %}" * 500 + "{% endif %}" * 500,
        "{{ " + "-" * 20_000 + "1 }}",
        "x" * 300_000,
    ],
    ids=range(13),
)
def test_a_template_that_fails_is_a_model_error_in_one_line(source: str) -> None:
    with pytest.raises(ModelError, match="the chat template") as caught:
        render(source)
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 300


GROW = "{% set ns = namespace(x=START) %}{% for i in range(99) %}{% set ns.x = STEP %}{% endfor %}"
BOMBS = {
    "endless loop": "{% for a in range(9999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "huge output": "{% for a in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
    "text times": "{{ 'x' * 999999999 }}",
    "times text": "{{ 999999999 * 'x' }}",
    "list times": "{{ ([1] * 999999999) | length }}",
    "times times": "{{ 'x' * 9999 * 9999 * 9999 }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "square": GROW.replace("START", "3").replace("STEP", "ns.x * ns.x"),
    "plus": GROW.replace("START", "'x'").replace("STEP", "ns.x + ns.x"),
    "list plus": GROW.replace("START", "[1]").replace("STEP", "ns.x + ns.x"),
    "tilde": GROW.replace("START", "'x'").replace("STEP", "ns.x ~ ns.x"),
    "join": GROW.replace("START", "'x'").replace("STEP", "[ns.x, ns.x] | join"),
    "join method": GROW.replace("START", "'x'").replace("STEP", "ns.x.join('abc')"),
    "replace": GROW.replace("START", "'x'").replace("STEP", "ns.x | replace('x', 'xx')"),
    "replace method": GROW.replace("START", "'x'").replace("STEP", "ns.x.replace('x', 'xx')"),
    "kept": GROW.replace("START", "[]").replace("STEP", "ns.x + ['x' * 4000000 ~ i]"),
    "format": "{{ '%999999999d' % 1 }}",
    "format star": "{{ '%*d' % (999999999, 1) }}",
    "format method": "{{ '{:999999999}'.format(1) }}",
    "format filter": "{{ '%999999999d' | format(1) }}",
    "center": "{{ 'x' | center(999999999) }}",
    "center method": "{{ 'x'.center(999999999) }}",
    "zfill": "{{ 'x'.zfill(999999999) }}",
    "tabs": "{{ '\t'.expandtabs(999999999) }}",
    "indent": "{{ ('x\n' * 1000000) | indent(99999) }}",
    "tojson": "{{ [1, 2] | tojson(indent=999999999) }}",
    "batch": "{{ [1] | batch(999999999, 'x') | list | length }}",
    "lipsum": "{{ lipsum(n=99999) }}",
    "macro": "{% macro m(x, n) %}{% if n %}{{ m(x, n - 1) }}{{ m(x, n - 1) }}{% else %}{{ x }}"
    "{% endif %}{% endmacro %}{{ m('x' * 1000, 99) }}",
    "set block": "{% set ns = namespace(x='x') %}{% for i in range(99) %}"
    "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
    "bytes": "{{ (1).to_bytes(999999999, 'big') }}",
    "split": "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}"
    "{% set ns.x = ns.x + [('x' * 4000000).split('x')] %}{% endfor %}",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_bounded_in_time_and_memory(name: str) -> None:
    resource = pytest.importorskip("resource")

    def peak() -> int:
        return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)

    before, begun = peak(), time.thread_time()
    with pytest.raises(ModelError):
        render(BOMBS[name])
    assert time.thread_time() - begun < 5.0
    if sys.platform == "linux":
        assert peak() - before < 400 * 1024  # KiB


def test_the_tracer_of_a_debugger_is_put_back() -> None:
    def tracer(*_: object) -> None: ...

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        render(CHATML)
        assert sys.gettrace() is tracer
    finally:
        sys.settrace(before)
