"""Chat templates are code from a file: they render what is meant and can do nothing else."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from uhlm_edge.common.errors import ModelError, ResourceError
from uhlm_edge.common.prompts import Message
from uhlm_edge.lm import sandbox, template
from uhlm_edge.lm.gguf.check import check
from uhlm_edge.lm.sandbox import Refused, compile_template
from uhlm_edge.lm.template import ChatTemplate
from uhlm_edge.models import shipped

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


def render_here(source: str, messages: list[Message] | None = None) -> str:
    """As the child does it, without one: quicker, for what is not hostile."""
    template = compile_template(source, {"bos_token": "<s>", "eos_token": "</s>"})
    variables = {"messages": TALK if messages is None else messages, "add_generation_prompt": True}
    return sandbox.render(template, variables)


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
    assert render_here(source) == text


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
        text = render_here(source)
    except Refused:
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
    "power": "{{ 9 ** (9 ** 9) }}",
    "square": GROW.replace("START", "3").replace("STEP", "ns.x * ns.x"),
    "join": GROW.replace("START", "'x'").replace("STEP", "[ns.x, ns.x] | join"),
    "replace method": GROW.replace("START", "'x'").replace("STEP", "ns.x.replace('x', 'xx')"),
    "kept": GROW.replace("START", "[]").replace("STEP", "ns.x + ['x' * 4000000 ~ i]"),
    "tojson": "{{ [1, 2] | tojson(indent=999999999) }}",
    "macro": "{% macro m(x, n) %}{% if n %}{{ m(x, n - 1) }}{{ m(x, n - 1) }}{% else %}{{ x }}"
    "{% endif %}{% endmacro %}{{ m('x' * 1000, 99) }}",
    "set block": "{% set ns = namespace(x='x') %}{% for i in range(99) %}"
    "{% set ns.x %}{{ ns.x }}{{ ns.x }}{% endset %}{% endfor %}",
}


# Lists that hold themselves twice, again and again: small in memory, endless to walk through.
NESTED = (
    "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(DEPTH) %}"
    "{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}{% endfor %}"
)
USES = {
    "equal": "{{ ns.a == ns.b }}",
    "less": "{{ ns.a < ns.b }}",
    "string": "{{ ns.a | string | length }}",
    "tilde": "{{ (ns.a ~ '') | length }}",
    "output": "{{ ns.a }}",
    "tojson": "{{ ns.a | tojson | length }}",
    "percent": "{{ ('%s' % [ns.a]) | length }}",
    "sort": "{{ [ns.a, ns.b, ns.a] | sort | length }}",
    "in": "{{ ns.a in [ns.b] }}",
    "unique": "{{ [ns.a | string, ns.b | string] | unique | list | length }}",
}
TUPLES = NESTED.replace("[ns.a, ns.a]", "(ns.a, ns.a)").replace("[ns.b, ns.b]", "(ns.b, ns.b)")
TUPLES = TUPLES.replace("a=[1], b=[1]", "a=(1,), b=(1,)")
HOSTILE = {
    **{
        f"{name} at {depth}": NESTED.replace("DEPTH", str(depth)) + use
        for name, use in USES.items()
        for depth in (27, 34)[name != "equal" :]
    },
    "hash": TUPLES.replace("DEPTH", "34") + "{{ {ns.a: 1}[ns.b] }}",
    "hash in a filter": TUPLES.replace("DEPTH", "34") + "{{ [ns.a] | unique | list | length }}",
    # Not nested at all: a million comparisons of two long and equal texts, in one operation.
    "flat": "{% set x = namespace(x='x') %}{% set a = x.x * 2000000 %}{% set b = x.x * 2000000 %}"
    "{{ [a] * 500000 == [b] * 500000 }}",
    **BOMBS,
}


def use(source: str) -> None:
    """Render with a child that is left to end by itself."""
    made = ChatTemplate(source, "<s>", "</s>")
    assert isinstance(made._renderer, template._Child)
    process = made._renderer._child._process
    assert process.stdin is not None
    try:
        made.render(TALK)
    finally:
        process.stdin.close()
        process.wait()


def hold(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hostile template is stopped, and neither it nor what it made is in this process."""
    monkeypatch.setattr(template, "SECONDS", 0.3)
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match="the chat template") as caught:
        use(source)
    assert len(str(caught.value)) < 300
    if sys.platform == "linux":
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


def test_a_template_that_hangs_in_c_code_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    hold(HOSTILE["equal at 34"], monkeypatch)


@pytest.mark.skipif(sys.platform == "win32", reason="has no such timer")
def test_what_a_template_computes_is_counted_and_not_what_others_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(template, "SECONDS", 0.3)
    made = ChatTemplate(HOSTILE["equal at 34"])
    with pytest.raises(ModelError, match="too much time or memory"):
        made.render(TALK)
    assert isinstance(made._renderer, template._Child)
    assert made._renderer._child._process.returncode == -signal.SIGPROF  # not our patience


# A child has a small process as its parent: the peak of a fresh one begins where its parent's is.
PARENT = """#!{python} -IS
import os, sys
if not (child := os.fork()):
    os.execv("{python}", ["{python}", *sys.argv[1:]])
peak = os.wait4(child, 0)[2].ru_maxrss
with open("{peak}", "w") as file:
    file.write(str(peak))
"""


@contextmanager
def weighing(folder: Path) -> Iterator[Path]:
    """The file that then has the most memory of the last child, in KiB."""
    parent, peak = folder / "parent", folder / "peak"
    parent.write_text(PARENT.format(python=sys.executable, peak=peak))
    parent.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "executable", str(parent))
        yield peak


@pytest.fixture(scope="module")
def idle(tmp_path_factory: pytest.TempPathFactory) -> int:
    """The most memory of a child with nothing to do, in KiB."""
    if sys.platform != "linux":
        return 0
    with weighing(tmp_path_factory.mktemp("idle")) as peak:
        use(CHATML)
    return int(peak.read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_template_is_bounded_in_time_and_takes_at_most_twice_the_idle_memory(
    name: str, idle: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform != "linux":  # other systems know no such limit of memory
        hold(HOSTILE[name], monkeypatch)
        return
    with weighing(tmp_path) as peak:
        hold(HOSTILE[name], monkeypatch)
    assert int(peak.read_text()) <= 2 * idle


@pytest.mark.parametrize("word", ["word ", "слово ", "文字列", "\U0001f600"])
def test_a_conversation_of_a_long_context_needs_no_more_than_a_template_may_take(word: str) -> None:
    turn = (word * 8192)[:8192]
    talk: list[Message] = [{"role": "user", "content": turn}] * 16  # 131,072 characters
    assert render(CHATML, talk).count(turn) == 16


def test_a_template_that_was_stopped_renders_the_next_conversation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(template, "SECONDS", 0.3)
    source = "{% if messages[0].content == 'hang' %}" + HOSTILE["flat"] + "{% endif %}fine"
    made = ChatTemplate(source)
    with pytest.raises(ModelError, match="too much time or memory"):
        made.render([{"role": "user", "content": "hang"}])
    assert made.render(TALK) == made.render(TALK) == "fine"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_child_gets_no_secrets_and_ends_with_its_template(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("UHLM_API_KEY", "a-key-that-is-secret")
    gc.collect()  # other tests' templates
    before = set(children(os.getpid()))
    made = ChatTemplate("{{ messages }}")
    (child,) = set(children(os.getpid())) - before
    assert b"secret" not in Path(f"/proc/{child}/environ").read_bytes()
    del made
    gc.collect()
    assert child not in children(os.getpid())


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_stops_a_template_that_hangs() -> None:
    code = (
        "import sys; from uhlm_edge.lm import template; template.SECONDS = 200.0;"
        "made = template.ChatTemplate(sys.argv[1]); print('ready', flush=True); made.render([])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, HOSTILE["equal at 34"]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    (child,) = children(process.pid)
    while int(Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[11]) < 40:
        pass  # until it computes
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert "KeyboardInterrupt" in said
    assert not Path(f"/proc/{child}").exists()


def test_shipped_templates_need_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **named: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    for name in shipped.SHIPPED:
        source = check(shipped.path_of(name)).metadata["tokenizer.chat_template"]
        assert "Hi <|end|>" in render(str(source))
    assert render(None)
    with pytest.raises(ResourceError, match="Too many open files"):
        render(CHATML)
