from pathlib import Path
from typing import Any

import pytest
import yaml

from mlops_assets.operations.models import COMPONENT, NotDeclared, declared_model, declared_models
from mlops_assets_tests.core.examples import declaration, make_spec


def write(path: Path, *documents: Any, kind: str = COMPONENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump_all([{"type": kind, "attributes": attributes} for attributes in documents]))
    return path


def test_the_models_that_this_deployment_ships_are_right() -> None:
    assert {name: spec.name for name, spec in declared_models().items()} == {
        "air_time": "air_time",
        "flight_delay": "flight_delay",
    }


def test_every_model_below_the_folder_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a" / "defs.yaml", declaration(), declaration(name="second"))
    write(tmp_path / "b" / "deep" / "defs.yaml", declaration(name="third"))
    write(tmp_path / "other" / "defs.yaml", {"anything": 1}, kind="some.other.Component")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "defs.yaml").write_text("")
    models = declared_models(tmp_path)
    assert set(models) == {"delay", "second", "third"}
    assert models["delay"] == make_spec()


def test_no_models_are_no_mistake(tmp_path: Path) -> None:
    assert declared_models(tmp_path) == {}


def test_a_mistake_names_file_model_and_every_field(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a" / "defs.yaml", declaration(name="broken", owner="nobody", live_from="2024-03-01T00:00:00")
    )
    with pytest.raises(ValueError, match="model 'broken'") as caught:
        declared_models(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "owner: " in message
    assert "live_from: " in message
    assert "names no time zone" in message


def test_one_model_is_read_whatever_is_wrong_with_others(tmp_path: Path) -> None:
    write(tmp_path / "a" / "defs.yaml", declaration(), declaration(name="broken", owner="nobody"))
    (tmp_path / "b").mkdir()
    unread = tmp_path / "b" / "defs.yaml"
    unread.write_text("type: [x")
    assert declared_model("delay", tmp_path) == make_spec()
    with pytest.raises(ValueError, match="model 'broken': owner: ") as own:
        declared_model("broken", tmp_path)
    assert str(unread) not in str(own.value)
    with pytest.raises(NotDeclared) as unknown:
        declared_model("dealy", tmp_path)
    first, *others = str(unknown.value).split("\n" + str(tmp_path))
    assert first == "no model 'dealy': declared are delay"
    assert len(others) == 2
    assert others[1].startswith("/b/defs.yaml: no valid YAML: ")
    with pytest.raises(ValueError, match="model 'broken'") as everything:
        declared_models(tmp_path)
    assert str(unread) in str(everything.value), "all that is wrong is told at once"


def test_a_date_that_there_is_not_is_told_with_its_file(tmp_path: Path) -> None:
    path = tmp_path / "defs.yaml"
    path.write_text("a: 2024-13-45")
    with pytest.raises(ValueError, match="no valid YAML: month must be in") as caught:
        declared_models(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


def test_of_two_models_with_one_name_neither_is_taken(tmp_path: Path) -> None:
    write(tmp_path / "a" / "defs.yaml", declaration(), declaration())
    with pytest.raises(ValueError, match="a model named 'delay' is declared already"):
        declared_model("delay", tmp_path)


@pytest.mark.parametrize("attributes", [None, [], "text"])
def test_attributes_that_are_no_mapping_are_refused(tmp_path: Path, attributes: Any) -> None:
    path = write(tmp_path / "defs.yaml", attributes)
    with pytest.raises(ValueError, match="attributes: Input should be") as caught:
        declared_models(tmp_path)
    assert str(path) in str(caught.value)


def templated(**changes: Any) -> dict[str, Any]:
    return declaration(**{"source": {"table": "{{ env.FLIGHTS }}/flights.parquet"}, **changes})


def test_templates_are_filled_in_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dagster filled them in, while the command line took them for the path itself."""
    monkeypatch.setenv("FLIGHTS", "/data")
    monkeypatch.delenv("DEPTH", raising=False)
    write(tmp_path / "defs.yaml", templated(description="as deep as {{ env('DEPTH', '3') }}", owner="team:a"))
    spec = declared_models(tmp_path)["delay"]
    assert (spec.source.table, spec.description) == ("/data/flights.parquet", "as deep as 3")


def test_text_stays_text_whatever_it_looks_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEPTH", "[3]")
    write(
        tmp_path / "defs.yaml",
        declaration(
            description="{{ env.DEPTH }}",
            label={"column": "late", "delay": "2h", "classes": ["0", "1"]},
            features=[{"name": "carrier", "type": "category", "categories": ["1", "None", "a{b"]}],
            gates=[],
        ),
    )
    spec = declared_models(tmp_path)["delay"]
    assert spec.description == "[3]"
    assert spec.label.classes == ("0", "1")
    assert spec.features[0].categories == ("1", "None", "a{b")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ env.NOT_THERE }}", "the environment variable NOT_THERE is not set"),
        ("{{ env('NOT_THERE') }}", "the environment variable NOT_THERE is not set"),
        ("{{ environment.HOME }}", "'environment' is undefined"),
        ("{{ env.HOME", "unexpected end of template"),
    ],
)
def test_a_template_that_cannot_be_filled_in_names_file_model_and_field(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path / "defs.yaml", declaration(source={"table": text}))
    with pytest.raises(ValueError, match=r"model 'delay': source\.table: ") as caught:
        declared_models(tmp_path)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_a_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    """The parser's own error once told the line and not the file."""
    path = tmp_path / "defs.yaml"
    for content in (b"type: [", b"\xff\xfe\xff", b"a: b: c"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"defs\.yaml: no valid YAML"):
            declared_models(tmp_path)


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "a" / "defs.yaml", declaration())
    write(tmp_path / "b" / "defs.yaml", declaration())
    with pytest.raises(ValueError, match=r"b/defs\.yaml: a model named 'delay' is declared already"):
        declared_models(tmp_path)
