"""The recipes that come with the package: their comments name only what validates."""

from __future__ import annotations

import re

import pytest

from spade_keras.recipe import load_recipe, shipped_recipes

pytestmark = pytest.mark.once

OVERRIDE = re.compile(r"\w+(?:\.\w+)+=[^\s)]+")
FOLDERS = ("FOLDER", "multicoil_train")


def header(path):
    """The comment that opens a recipe, without its marks; lines that go on are joined."""
    lines = path.read_text().split("\n\n[")[0].splitlines()
    assert all(line.startswith("#") for line in lines)
    return re.sub(r" *\\\n *", " ", "\n".join(line[2:] for line in lines))


def examples():
    """Recipe and overrides that stand together; others are two spaces or a line away."""
    for name, path in shipped_recipes().items():
        for part in re.split(r"\n|  +", header(path)):
            if found := OVERRIDE.findall(part.replace("section.key=value", "")):
                yield pytest.param(name, found, id=f"{name} {' '.join(found)}"[:80])


@pytest.mark.parametrize(("name", "overrides"), examples())
def test_examples_in_comments_validate(tmp_path, monkeypatch, name, overrides):
    monkeypatch.chdir(tmp_path)
    for override in overrides:
        key, _, value = override.partition("=")
        if key in ("data.path", "data.kernels", "network.path"):
            (tmp_path / value).mkdir() if value in FOLDERS else (tmp_path / value).touch()
    load_recipe(name, overrides)


@pytest.mark.parametrize(("name", "path"), shipped_recipes().items())
def test_a_recipe_opens_with_needs_and_command_and_remarks_its_knobs(name, path):
    assert "Needs:  pip install" in header(path)
    assert f"Run:    spade-keras run recipes/{name}.toml" in header(path)
    tables = path.read_text().split("\n[search]\n")[1:] or [path.read_text()]
    knobs = [line for line in tables[0].split("\n[")[0].splitlines() if " = " in line]
    assert sum("#" in line for line in knobs) >= len(knobs) * 0.8


def test_shipped_searches_state_what_the_defaults_decide():
    for name in shipped_recipes():
        text = shipped_recipes()[name].read_text()
        for key in ("trials", "width_multiple", "minimum_width", "finalists"):
            assert "[search]" not in text or f"\n{key} = " in text, (name, key)
