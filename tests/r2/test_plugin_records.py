"""Records of other packages: known beside the built-in ones, and refused by name where they do not fit."""

from pathlib import Path

import pytest

from r2.errors import ConfigError
from r2.methods.record import Method
from r2.plugins import plugin_names, with_plugins
from tests.support.plugins import Tool, install

GROUP = "r2.tests"


BUILT_IN = (Tool("zebra"), Tool("apple"))
MODULE = """
from tests.support.plugins import Tool

GOOD, OTHER = Tool("good"), Tool("apple")
NUMBER = 7
"""


def installed(monkeypatch: pytest.MonkeyPatch, site: Path, lines: str, name: str = "some-tools") -> None:
    module = f"{name.replace('-', '_')}_{site.name.replace('-', '_')}"
    install(site, name, {f"{module}.py": MODULE}, {GROUP: lines.replace("MODULE", module)})
    monkeypatch.syspath_prepend(str(site))


def test_they_come_after_the_built_in_ones(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    installed(monkeypatch, tmp_path, "good = MODULE:GOOD")
    assert [*with_plugins(GROUP, Tool, BUILT_IN)] == ["zebra", "apple", "good"]
    assert plugin_names(GROUP) == ["good"]


def test_names_are_read_without_an_import(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    installed(monkeypatch, tmp_path, "good = no.such.module:GOOD")
    assert plugin_names(GROUP) == ["good"]


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("good = no.such.module:GOOD", "cannot be imported: ModuleNotFoundError"),
        ("good = MODULE:GONE", "cannot be imported: AttributeError"),
        ("good = MODULE:NUMBER", r"expected a .*Tool, got int"),
        ("better = MODULE:GOOD", "the record's name is 'good'"),
        ("apple = MODULE:OTHER", "the name is taken by r2 itself"),
        ("file = MODULE:GOOD", "the name is taken by r2 itself"),
        ("Good-Tool = MODULE:GOOD", "lower-case letters"),
    ],
)
def test_one_that_does_not_fit_is_refused_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, line: str, why: str
):
    installed(monkeypatch, tmp_path, line)
    with pytest.raises(ConfigError, match=rf"(?s)group {GROUP} of the package some-tools 1\.0 .*{why}.*uninstall it"):
        with_plugins(GROUP, Tool, BUILT_IN, reserved=("file",))


def test_two_packages_may_not_share_a_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name in ("more-tools", "some-tools"):
        (tmp_path / name).mkdir()
        installed(monkeypatch, tmp_path / name, "good = MODULE:GOOD", name)
    with pytest.raises(ConfigError, match=r"some-tools 1\.0 .*taken by the package more-tools 1\.0"):
        with_plugins(GROUP, Tool, BUILT_IN)


def test_a_method_whose_knob_is_no_setting_is_no_record():
    with pytest.raises(ValueError, match="'volume' is no setting"):
        Method(name="loud", summary="", run=None, expects=None, knob="volume", values=(1.0,))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="come together"):
        Method(name="loud", summary="", run=None, expects=None, knob="threshold")  # type: ignore[arg-type]
