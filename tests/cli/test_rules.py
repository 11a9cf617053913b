"""``fastopt rules``: the docstrings of rules have the form that it reads."""

import pytest
from click.testing import CliRunner

import fastopt
from fastopt.cli import cli
from fastopt.cli.rules import page


class Halving(fastopt.SGD):
    """Halving: one of the user's own."""


class Silent(fastopt.SGD):
    pass


Silent.__doc__ = None


def rules(*arguments: str):
    return CliRunner().invoke(cli, ["rules", *arguments])


@pytest.mark.parametrize("rule", fastopt.RULES.values(), ids=fastopt.RULES)
def test_every_rule_says_what_it_is(rule):
    found = page(rule)
    assert found.what and found.paper and found.formula
    assert not found.what.endswith(".") and "  " not in found.what
    assert any(line.split()[:2] == ["p", "="] or " = p" in line or "p = " in line for line in found.formula)
    assert not any(mark in text for text in (found.what, found.paper, *found.notes, found.elsewhere) for mark in "`")


def test_the_list_has_every_rule_and_form():
    lines = rules().stdout.splitlines()
    assert [line.split()[0] for line in lines[1:] if not line.startswith(" ")] == list(fastopt.RULES)
    assert len(lines) == 1 + sum(len(rule.forms()) for rule in fastopt.RULES.values())
    (adamw,) = (line for line in lines if line.startswith("AdamW "))
    assert adamw.split(maxsplit=4)[1:] == ["28", "exp_avg,", "exp_avg_sq", "Adam with decoupled weight decay"]


@pytest.mark.parametrize("name", fastopt.RULES)
def test_a_rule_is_shown(name):
    shown = rules(name.lower()).stdout
    assert shown.startswith(f"{name}: ")
    for title in ("paper", "formula", "defaults", "what a step moves for each float32 parameter", "measured error"):
        assert f"\n\n{title}\n  " in shown
    rule = fastopt.RULES[name]
    for field in rule.fields.values():
        assert f"  {field.name} " in shown and str(field.default) in shown
    for form in rule.forms():
        assert all(state in shown for state in form.states)
        assert (f"  {4 * (3 + 2 * len(form.states))} " if rule.stage is None else f"  {rule.stage} then ") in shown
    assert (f"at most {rule.ulp} units" if rule.stage is None else f"at most {rule.tolerance} of") in shown
    assert max(map(len, shown.splitlines())) <= 130


def test_what_others_do_is_shown():
    shown = rules("adan").stdout.partition("\nelsewhere\n")[2]
    assert "1 - beta2" in shown and "Elsewhere" not in shown and "``" not in shown


@pytest.mark.parametrize(("name", "what"), [("Halving", "Halving: one of the user's own"), ("Silent", "Silent")])
def test_a_rule_of_ones_own(name, what):
    shown = rules(f"{__name__}.{name}").stdout
    assert shown.startswith(f"{what}\n\ndefaults\n  lr ")


@pytest.mark.parametrize(
    ("name", "start", "end"),
    [
        ("adann", "fastopt rules: NAME must be one of 'ada", "not 'adann'; did you mean 'adan'?"),
        (
            "nowhere.Adam",
            "fastopt rules: NAME must be the module and the name of a rule, ",
            "not 'nowhere.Adam': No module named 'nowhere'",
        ),
    ],
)
def test_a_typo_gets_the_nearest_name(name, start, end):
    result = rules(name)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith(start) and result.stderr.endswith(f"{end}\n") and result.stderr.count("\n") == 1
