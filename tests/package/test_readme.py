"""README.md and its examples; the table of rules against the declarations."""

import re
from pathlib import Path

import pytest

import fastopt

README = Path(__file__).parents[2] / "README.md"
RULES = Path(fastopt.rules.__file__).with_name("README.md")


def table():
    lines = ["| rule | what it is | kernel | states | bytes | error, ulp |", "|---|---|---|---|---|---|"]
    for name, rule in fastopt.RULES.items():
        what = rule.__doc__.partition(": ")[2].partition(".")[0]
        for each in rule.forms():
            states = ", ".join(f"`{state}`" for state in each.states) or "none"
            if rule.stage is None:
                kernel, moved, error = f"`{each.kernel}`", 12 + 8 * len(each.states), rule.ulp
            else:
                kernel, moved, error = f"`{each.stage}`, then `{each.kernel}`", "-", f"{rule.tolerance:g} x"
            lines.append(f"| `{name}` | {what} | {kernel} | {states} | {moved} | {error} |")
    return "\n".join(lines)


def test_the_map_has_every_room():
    root = README.parent
    contributing = (root / "CONTRIBUTING.md").read_text()
    rooms = {each.name for folder in ("fastopt", "csrc") for each in (root / folder).glob("[!_]*.[pch]*")}
    headers_of = {each for each in rooms if each.endswith(".h") and each[:-2] + ".c" in rooms}
    assert [each for each in sorted(rooms - headers_of) if f"{each}`" not in contributing] == []


def test_the_table_of_rules_is_that_of_the_declarations():
    written = RULES.read_text().partition("<!-- rules -->\n")[2].partition("\n<!-- /rules -->")[0]
    assert written == table(), f"{RULES}: put this between the marks:\n{table()}"


def test_the_examples_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    names = {}
    for example in examples:
        exec(compile(example, "README.md", "exec"), names)
    promised = re.findall(r"print\(.*\)  # (.*)", "".join(examples))
    assert promised
    assert capsys.readouterr().out.splitlines() == promised


@pytest.mark.parametrize("line", re.findall(r"^.*FASTOPT_\w+.*$", README.read_text(), flags=re.MULTILINE))
def test_environment_variables_exist(line):
    name = re.search(r"FASTOPT_\w+", line)[0]
    sources = [*README.parent.glob("csrc/*.py"), *README.parent.glob("fastopt/**/*.py")]
    assert any(name in source.read_text() for source in sources)


def test_links_lead_somewhere():
    for page in (README, README.with_name("CONTRIBUTING.md"), *README.parent.glob("[!.]*/**/README.md")):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page}: {link}"
