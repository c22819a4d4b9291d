"""Names, settings read from constructors, and every method that is registered."""

from __future__ import annotations

import inspect
import json
import tomllib
from collections.abc import Callable
from typing import Any, Literal

import pytest
import tomli_w

from advhash.attacks.base import Attack
from advhash.errors import ConfigError, UnknownName, UsageError
from advhash.registry import ATTACKS, DATASETS, FORMS, VICTIMS, Entry, Registry, data_called
from advhash.victims.base import HashVictim

REGISTRIES = [VICTIMS, ATTACKS, DATASETS]
by_kind = pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.kind)


class Gadget:
    """Turns. And does more."""

    def __init__(
        self,
        *,
        size: int,
        rate: float = 0.5,
        mode: Literal["fast", "slow"] = "fast",
        shiny: bool = False,
        levels: tuple[float, ...] = (1.0, 2.0),
    ) -> None:
        if size < 1:
            raise ValueError(f"expected size >= 1, got {size}")
        self.size = size
        self.rate = rate
        self.mode = mode
        self.shiny = shiny
        self.levels = levels


@pytest.fixture
def gadgets() -> Registry[Any]:
    registry: Registry[Any] = Registry("gadget", ())
    presets = {"paper": {"rate": 0.1, "shiny": True}}
    registry.register("spinner", source="Doe 2020", presets=presets)(Gadget)
    return registry


class TestNames:
    def test_an_unknown_name_gets_the_nearest_one(self, gadgets: Registry[Any]) -> None:
        with pytest.raises(UnknownName) as got:
            gadgets["spiner"]
        assert str(got.value) == ("unknown gadget 'spiner': did you mean 'spinner'? Known: spinner")
        assert got.value.exit_code == 2

    def test_names_beside_are_suggested_and_sent_to_their_own_command(
        self, gadgets: Registry[Any]
    ) -> None:
        tools: Registry[Any] = Registry("tool", (), beside=gadgets)
        with pytest.raises(UnknownName, match="did you mean 'spinner'"):
            tools["spiner"]
        with pytest.raises(
            UsageError, match="spinner is no tool but one of the gadgets: it runs alone"
        ):
            tools["spinner"]

    def test_a_name_like_no_other_gets_the_list_only(self, gadgets: Registry[Any]) -> None:
        with pytest.raises(UnknownName) as got:
            gadgets.create("xyz")
        assert str(got.value) == "unknown gadget 'xyz': Known: spinner"

    def test_an_empty_registry_says_none(self) -> None:
        with pytest.raises(UnknownName, match="Known: none"):
            Registry[Any]("gadget", ())["spinner"]

    def test_a_name_is_given_once(self, gadgets: Registry[Any]) -> None:
        decorate = gadgets.register("spinner", source="Roe 2021")
        with pytest.raises(ValueError, match="gadget 'spinner' is registered already"):
            decorate(Gadget)
        assert gadgets["spinner"].source == "Doe 2020"

    def test_entries_come_in_order_with_source_and_summary(self, gadgets: Registry[Any]) -> None:
        gadgets.register("anvil", source="Roe 2021")(Gadget)
        found = [(entry.name, entry.source, entry.summary) for entry in gadgets]
        assert found == [
            ("anvil", "Roe 2021", "Turns. And does more."),
            ("spinner", "Doe 2020", "Turns. And does more."),
        ]

    def test_the_decorator_returns_what_it_decorates(self, gadgets: Registry[Any]) -> None:
        assert gadgets.register("other", source="x")(Gadget) is Gadget

    def test_a_plain_function_is_a_method_too(self, gadgets: Registry[Any]) -> None:
        @gadgets.register("doubler", source="x")
        def doubler(*, by: int = 2) -> int:
            return 2 * by

        assert gadgets.create("doubler", {"by": 4}) == 8


class TestSettings:
    def test_defaults_are_written_out(self, gadgets: Registry[Any]) -> None:
        assert gadgets.settings("spinner", {"size": 3}) == {
            "size": 3,
            "rate": 0.5,
            "mode": "fast",
            "shiny": False,
            "levels": (1.0, 2.0),
        }

    def test_given_settings_win_over_the_preset_and_that_over_defaults(
        self, gadgets: Registry[Any]
    ) -> None:
        settings = gadgets.settings("spinner", {"size": 3, "preset": "paper", "rate": 0.9})
        assert (settings["rate"], settings["shiny"], settings["mode"]) == (0.9, True, "fast")
        assert "preset" not in settings

    @pytest.mark.parametrize("preset", ["small", None])
    def test_the_preset_small_names_the_defaults(
        self, gadgets: Registry[Any], preset: str | None
    ) -> None:
        given = {"size": 3}
        assert gadgets.settings("spinner", {**given, "preset": preset}) == gadgets.settings(
            "spinner", given
        )

    def test_an_unknown_preset_gets_the_nearest_one(self, gadgets: Registry[Any]) -> None:
        with pytest.raises(ConfigError) as got:
            gadgets.settings("spinner", {"size": 3, "preset": "papers"})
        assert str(got.value) == (
            "gadget 'spinner' has no preset 'papers': did you mean 'paper'? Known: paper, small"
        )

    @pytest.mark.parametrize("preset", [5, ["paper"], {"rate": 1.0}, True])
    def test_a_preset_that_is_no_name_is_refused(
        self, gadgets: Registry[Any], preset: object
    ) -> None:
        with pytest.raises(ConfigError, match="has no preset"):
            gadgets.settings("spinner", {"size": 3, "preset": preset})

    def test_an_unknown_setting_gets_the_nearest_one(self, gadgets: Registry[Any]) -> None:
        with pytest.raises(ConfigError) as got:
            gadgets.settings("spinner", {"size": 3, "rat": 1.0})
        assert str(got.value) == (
            "gadget 'spinner' has no setting 'rat': did you mean 'rate'? "
            "Known: levels, mode, rate, shiny, size"
        )

    def test_names_are_checked_without_the_values(self, gadgets: Registry[Any]) -> None:
        gadgets["spinner"].check_names("gadget", {"preset": "paper", "size": "no number"})
        with pytest.raises(ConfigError, match="no setting 'sizes': did you mean 'size'"):
            gadgets["spinner"].check_names("gadget", {"sizes": 3})

    def test_a_required_setting_is_named(self, gadgets: Registry[Any]) -> None:
        with pytest.raises(
            ConfigError, match=r"^setting 'gadget\.size' of spinner is missing: expected a whole"
        ):
            gadgets.create("spinner")

    @pytest.mark.parametrize(
        ("name", "value", "expected"),
        [
            ("size", "three", "a whole number"),
            ("size", 2.5, "a whole number"),
            ("size", None, "a whole number"),
            ("rate", "quick", "a number"),
            ("rate", [0.5], "a number"),
            ("mode", "medium", "fast or slow"),
            ("shiny", "perhaps", "true or false"),
            ("levels", True, "a list of numbers"),
            ("levels", [1.0, "x"], "a number"),
        ],
    )
    def test_a_wrong_type_names_the_field_what_was_expected_and_what_came(
        self, gadgets: Registry[Any], name: str, value: object, expected: str
    ) -> None:
        with pytest.raises(ConfigError) as got:
            gadgets.settings("spinner", {"size": 3, name: value})
        message = str(got.value)
        assert message.startswith(f"setting 'gadget.{name}")
        assert expected in message
        assert "got " in message
        assert "\n" not in message

    @pytest.mark.parametrize(("text", "value"), [("False", False), ("true", True), ("0", False)])
    def test_trap_1_the_text_false_is_false(
        self, gadgets: Registry[Any], text: str, value: bool
    ) -> None:
        """`type=bool` of argparse makes True of it."""
        assert gadgets.settings("spinner", {"size": 3, "shiny": text})["shiny"] is value

    def test_a_value_that_the_constructor_refuses_is_a_config_error(
        self, gadgets: Registry[Any]
    ) -> None:
        with pytest.raises(ConfigError, match=r"^gadget 'spinner': expected size >= 1, got 0$"):
            gadgets.create("spinner", {"size": 0})

    def test_a_bug_in_a_constructor_stays_a_bug(self, gadgets: Registry[Any]) -> None:
        @gadgets.register("broken", source="x")
        def broken() -> None:
            raise KeyError("bug")

        with pytest.raises(KeyError):
            gadgets.create("broken")

    def test_given_settings_are_not_changed(self, gadgets: Registry[Any]) -> None:
        given = {"size": 3, "preset": "paper"}
        gadgets.settings("spinner", given)
        assert given == {"size": 3, "preset": "paper"}

    @pytest.mark.parametrize(
        "build",
        [lambda size: size, lambda *sizes: sizes, lambda **sizes: sizes],
        ids=["positional", "variadic", "any-keyword"],
    )
    def test_only_explicit_keywords_are_settings(
        self, gadgets: Registry[Any], build: Callable[..., object]
    ) -> None:
        gadgets.register("loose", source="x")(build)
        with pytest.raises(TypeError, match=r"loose: sizes? must be keyword-only"):
            gadgets.settings("loose")


def filled(entry: Entry[Any]) -> dict[str, object]:
    """The settings that an entry requires, with stand-ins; the rest by default."""
    stand_ins = {"int": 7, "str": "x", "float": 0.5, "Path": "x", "tuple": (3, 32, 32)}
    return {
        name: stand_ins.get(getattr(field.annotation, "__name__", ""), "x")
        for name, field in entry.model.model_fields.items()
        if field.is_required()
    }


class TestEveryRegisteredMethod:
    @by_kind
    def test_the_kind_has_methods(self, registry: Registry[Any]) -> None:
        assert len(list(registry)) >= 2

    @by_kind
    def test_it_has_a_source_and_a_docstring(self, registry: Registry[Any]) -> None:
        for entry in registry:
            assert entry.source.strip(), entry.name
            assert entry.build.__doc__, f"{entry.name}: no docstring of its own"
            assert entry.summary.endswith((".", ":")), f"{entry.name}: {entry.summary!r}"

    @by_kind
    def test_its_settings_model_builds_and_takes_its_defaults(
        self, registry: Registry[Any]
    ) -> None:
        for entry in registry:
            settings = entry.settings(registry.kind, filled(entry))
            assert set(settings) == set(inspect.signature(entry.build).parameters), entry.name

    @by_kind
    def test_its_presets_are_valid_settings(self, registry: Registry[Any]) -> None:
        for entry in registry:
            assert "small" not in entry.presets, f"{entry.name}: small names the defaults"
            for preset, values in entry.presets.items():
                settings = entry.settings(registry.kind, {**filled(entry), "preset": preset})
                defaults = entry.settings(registry.kind, filled(entry))
                for name in values:
                    assert settings[name] == values[name], f"{entry.name} {preset} {name}"
                assert settings != defaults, f"{entry.name}: preset {preset} changes nothing"

    @by_kind
    def test_its_settings_survive_json_as_cards_and_runs_store_them(
        self, registry: Registry[Any]
    ) -> None:
        for entry in registry:
            for preset in ("small", *entry.presets):
                settings = entry.settings(registry.kind, {**filled(entry), "preset": preset})
                stored = json.loads(json.dumps(settings, allow_nan=False))
                assert entry.settings(registry.kind, stored) == settings, entry.name

    def test_attack_constructors_store_their_arguments_unchanged(self) -> None:
        for entry in ATTACKS:
            for preset in ("small", *entry.presets):
                settings = entry.settings("attack", {"preset": preset})
                attack = entry.build(**settings)
                for name, value in settings.items():
                    assert getattr(attack, name) is value, f"{entry.name} {preset}: {name}"

    def test_attacks_declare_their_contract(self) -> None:
        for entry in ATTACKS:
            attack = ATTACKS.create(entry.name)
            assert isinstance(attack, Attack), entry.name
            assert attack.goal in ("targeted", "untargeted"), entry.name
            assert attack.modalities, entry.name
            assert isinstance(attack.knowledge, frozenset), entry.name
            assert attack.history == [], entry.name

    def test_victims_are_hash_victims_with_a_registered_default_data_set(self) -> None:
        known = {entry.name for entry in DATASETS}
        for entry in VICTIMS:
            assert issubclass(entry.build, HashVictim), entry.name  # type: ignore[arg-type]
            assert entry.build.default_dataset in known, entry.name  # type: ignore[attr-defined]

    def test_readers_of_anybodys_data_are_called_by_the_place(self) -> None:
        own = {entry.name for entry in DATASETS if "your own" in entry.source}
        assert own == FORMS
        for name in own:
            assert data_called(name, {"root": "/home/kim/summer.d"}) == "summer.d"
            assert data_called(name, {"root": "."}) == name


@pytest.mark.parametrize(
    ("registry", "name", "preset"),
    [
        (registry, entry.name, preset)
        for registry in (VICTIMS, ATTACKS)
        for entry in registry
        for preset in ("small", *entry.presets)
    ],
)
def test_settings_of_every_preset_survive_the_config_file(
    registry: Registry[Any], name: str, preset: str
) -> None:
    """TOML has no None: a setting may be None only where that is its default."""
    needed = {"classes": 3, "text_size": 5, "database_rows": 7, "shape": (3, 32, 32)}
    needed |= {"encoder": "timm:test_resnet"}
    given = {key: needed[key] for key in needed if key in registry[name].model.model_fields}
    settings = registry.settings(name, {"preset": preset, **given})
    written = {key: value for key, value in settings.items() if value is not None}
    again = registry.settings(name, tomllib.loads(tomli_w.dumps(written)))
    assert again == settings


def test_a_setting_that_is_a_list_is_written_with_commas_too() -> None:
    given = ATTACKS.settings("prosgan", {"bounded": True, "radii": "2/255, 16/255"})
    assert given["radii"] == ("2/255", "16/255")
    assert ATTACKS.settings("dhta", {"alphas": "0.5,1"})["alphas"] == (0.5, 1.0)
    assert ATTACKS.settings("dhta", {"transforms": ""})["transforms"] == ()
    assert ATTACKS.settings("dhta", {"alphas": 0.5})["alphas"] == (0.5,)
    survive = ATTACKS.settings("dhta", {"survive": "jpeg75,resize50"})["survive"]
    assert survive == ("jpeg75", "resize50")
    assert ATTACKS.settings("dhta", {"survive": "jpeg75"})["survive"] == "jpeg75"
    with pytest.raises(ConfigError, match="alphas"):
        ATTACKS.settings("dhta", {"alphas": "0.5,one"})
