"""What is compiled once comes out as what is compiled each time."""

from __future__ import annotations

import pytest
from ansible.errors import AnsibleError
from ansible.template import Templar, trust_as_template

from ansible_collections.beowulf.cluster.plugins.plugin_utils import template_cache

VARIABLES = {"one": 1, "many": [3, 4], "text": trust_as_template("{{ one + 1 }}"), "path": "C:\\new"}


@pytest.fixture
def compiled(monkeypatch):
    """What is really compiled."""
    seen = []
    real = template_cache._compile

    def compile_(environment, source, *args, **options):
        seen.append(source if isinstance(source, str) else "an expression")
        return real(environment, source, *args, **options)

    monkeypatch.setattr(template_cache, "_compile", compile_)
    template_cache.install()
    yield seen
    monkeypatch.undo()
    template_cache.remove()


def render(text, **options):
    return Templar(variables=VARIABLES).template(trust_as_template(text), **options)


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("{{ one }}", 1),
        ("{{ text }}", 2),
        ("{% for x in many %}{{ x }},{% endfor %}\n", "3,4,\n"),
        ("{{ many | map('string') }}", ["3", "4"]),
    ],
)
def test_a_template_is_compiled_once_and_rendered_each_time(compiled, text, result):
    assert render(text) == result
    before = len(compiled)
    assert before >= 1
    assert render(text) == result
    assert len(compiled) == before


def test_another_value_is_rendered_anew(compiled):
    text = trust_as_template("{{ value }}")
    assert [Templar(variables={"value": value}).template(text) for value in (1, "two", [3])] == [1, "two", [3]]
    assert compiled == ["{{ value }}"]


def test_a_condition_is_compiled_once(compiled):
    for value, result in ((1, True), (2, False), (1, True)):
        assert Templar(variables={"one": value}).evaluate_conditional(trust_as_template("one == 1")) is result
    assert compiled == ["an expression"]


def test_an_expression_is_no_template_of_the_same_text(compiled):
    templar = Templar(variables=VARIABLES)
    assert templar.template(trust_as_template("one")) == "one"
    assert templar.evaluate_expression(trust_as_template("one")) == 1
    assert templar.template(trust_as_template("one")) == "one"


def test_options_of_a_call_are_heeded(compiled):
    """Delimiters, and whether a backslash in a string is one."""
    text = "{{ one }} [[ one ]]"
    other = {"variable_start_string": "[[", "variable_end_string": "]]"}
    for _ in range(2):
        assert render(text) == "1 [[ one ]]"
        assert render(text, overrides=other) == "{{ one }} 1"
        assert render("{{ 'a\\n' }}", escape_backslashes=False) == "a\n"
        assert render("{{ 'a\\n' }}", escape_backslashes=True) == "a\\n"


def test_a_mistake_is_told_each_time(compiled):
    for _ in range(2):
        with pytest.raises(AnsibleError):
            render("{{ one +")
        with pytest.raises(AnsibleError):
            render("{{ nothing }}")


def test_no_more_are_kept_than_asked_for(compiled, monkeypatch):
    monkeypatch.setattr(template_cache, "KEPT", 3)
    for number in range(8):
        assert render(f"{{{{ {number} + one }}}}") == number + 1
        assert len(template_cache._codes) <= 3
