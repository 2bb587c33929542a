"""Promises about the source tree itself: layers, headers, documents."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("core", "models", "experiments")  # each may include those before it and itself


def sources(*suffixes: str) -> list[Path]:
    return [path for layer in LAYERS for path in sorted((ROOT / layer).rglob("*")) if path.suffix in suffixes]


def quoted_includes(path: Path) -> list[str]:
    return re.findall(r'^#include "([^"]+)"', path.read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize("path", sources(".h", ".cpp", ".cu"), ids=lambda path: str(path.relative_to(ROOT)))
def test_dependencies_point_one_way(path: Path):
    layer = path.relative_to(ROOT).parts[0]
    allowed = LAYERS[: LAYERS.index(layer) + 1]
    for include in quoted_includes(path):
        assert include == "revision.h" or include.split("/")[0] in allowed, f"{path} includes {include}"
        assert include == "revision.h" or (ROOT / include).exists(), f"{include}: quoted includes start at the root"


def test_own_header_comes_first():
    for path in sources(".cpp"):
        own = path.with_suffix(".h")
        if own.exists():
            assert quoted_includes(path)[0] == str(own.relative_to(ROOT)), path


def test_cuda_sources_include_no_torch_header():
    checked = {path for path in sources(".cu", ".cuh")}
    for path in list(checked):
        checked |= {ROOT / include for include in quoted_includes(path)}
    for path in checked:
        assert not re.search(r"#include <(torch|ATen|c10)/", path.read_text(encoding="utf-8")), path


def test_headers_include_only_light_torch_headers():
    for path in sources(".h"):
        found = re.findall(r"#include <(torch/[^>]+)>", path.read_text(encoding="utf-8"))
        assert set(found) <= {"torch/types.h"}, path


def test_configurations_know_no_torch():
    """What a run is asked to do can be read and checked by code that never sees a tensor."""
    reached, queue = set(), [ROOT / "experiments" / "config" / "config.h"]
    while queue:
        path = queue.pop()
        if path not in reached:
            reached.add(path)
            queue += [ROOT / include for include in quoted_includes(path)]
    assert ROOT / "models" / "dam.h" in reached, "the walk ends too early"
    for path in reached:
        assert not re.search(r"#include <(torch|ATen|c10)/", path.read_text(encoding="utf-8")), path


def test_config_is_the_only_user_of_yaml_cpp():
    users = [path for path in sources(".h", ".cpp") if "yaml-cpp" in path.read_text(encoding="utf-8")]
    assert [str(path.relative_to(ROOT)) for path in users if path.name != "config.h"] == ["core/config.cpp"]


def test_only_cmake_chooses_between_cuda_and_none():
    for path in sources(".h", ".cpp"):
        if path.name not in ("adam_math.h", "simt.h"):  # what nvcc sees of a function; CUDA under g++
            assert not re.search(r"#if.*CUDA", path.read_text(encoding="utf-8")), path


def test_readme_is_short_and_its_files_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 205
    for name in re.findall(r"\b(?:configs|scripts|docs|tests)/[\w/.-]+\.\w+", text):
        assert (ROOT / name).exists(), name


def test_architecture_names_files_that_exist():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    table = text[text.index("## Files") : text.index("Places kept")]
    for first in re.findall(r"^\| `(.+?)` \|", table, re.M):
        folder = ""
        for name in re.split(r"`?, `", first):
            folder = name[: name.rindex("/") + 1] if "/" in name else folder
            path = name if "/" in name else folder + name
            matches = list(ROOT.glob(path)) + list(ROOT.glob(path + ".*"))
            assert path.endswith("/") or matches, path


def test_architecture_names_every_python_file():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    rows = [re.match(r"\| `(scripts/.+?)` \|", line) for line in text.splitlines()]
    named = set()
    for row in filter(None, rows):
        first, *others = row[1].split("`, `")
        folder = first[: first.rindex("/") + 1]
        named |= {folder + (name[len(folder) :] if name.startswith(folder) else name) for name in [first, *others]}
    for path in (ROOT / "scripts").rglob("*.py"):
        name = str(path.relative_to(ROOT))
        assert name in named or name[: -len(".py")] in named, name


def test_the_gallery_names_every_config_and_its_pictures_are_small():
    text = (ROOT / "configs" / "README.md").read_text()
    for config in (ROOT / "configs").glob("*.yaml"):
        assert f" configs/{config.name}`" in text, config.name
    pictures = re.findall(r"\]\((\.\./docs/[^)]+\.png)\)", text)
    assert len(pictures) > 10
    for picture in pictures:
        assert (ROOT / "configs" / picture).stat().st_size < 200_000, picture


def test_every_config_says_question_and_command():
    for path in (ROOT / "configs").rglob("*.yaml"):
        head = path.read_text(encoding="utf-8").split("\nname:")[0]
        assert "# Question" in head and "# Command   mnemo " in head and "# Result" in head, path


def test_nothing_is_left_to_do():
    for path in [*sources(".h", ".cpp", ".cu"), *(ROOT / "scripts").rglob("*")]:
        if path.suffix in (".h", ".cpp", ".cu", ".py", ".sh"):
            assert not re.search(r"\b(TODO|FIXME|XXX)\b", path.read_text(encoding="utf-8")), path
