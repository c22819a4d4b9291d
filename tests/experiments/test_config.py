"""One run, one file: precedence, messages, and the file that replays the run."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

import pytest

from advhash.budget import Budget
from advhash.errors import ConfigError
from advhash.experiments.config import AttackConfig, BudgetConfig, MethodConfig, TrainConfig
from advhash.experiments.config_text import merge, parse_assignment, read_toml

MINIMAL: dict[str, Any] = {"victim": {"name": "dpsh"}, "attack": {"name": "dhta"}}
DEFAULT = Budget("linf", 4 / 255)


class TestMerge:
    def test_later_layers_win_table_by_table(self) -> None:
        """Defaults < file < options < --set."""
        file = {"seed": 1, "victim": {"name": "dpsh", "bits": 16, "epochs": 1}}
        options = {"seed": 2, "victim": {"bits": 24}, "device": None}
        assigned = {"victim": {"bits": 32}}
        merged = merge(merge(merge({"device": "cpu"}, file), options), assigned)
        assert merged == {
            "device": "cpu",
            "seed": 2,
            "victim": {"name": "dpsh", "bits": 32, "epochs": 1},
        }

    def test_none_leaves_the_base_as_it_is(self) -> None:
        assert merge({"a": 1, "t": {"b": 2}}, {"a": None, "t": {"b": None}}) == {
            "a": 1,
            "t": {"b": 2},
        }

    @pytest.mark.parametrize("value", [0, False, "", []])
    def test_only_none_does_so(self, value: object) -> None:
        assert merge({"a": 1}, {"a": value}) == {"a": value}

    def test_another_method_forgets_the_settings_of_the_first(self) -> None:
        base = {"victim": {"name": "dpsh", "bits": 16}, "seed": 1}
        assert merge(base, {"victim": {"name": "dlcmh", "epochs": 2}}) == {
            "victim": {"name": "dlcmh", "epochs": 2},
            "seed": 1,
        }

    def test_the_same_method_keeps_them(self) -> None:
        base = {"victim": {"name": "dpsh", "bits": 16}}
        assert merge(base, {"victim": {"name": "dpsh", "epochs": 2}}) == {
            "victim": {"name": "dpsh", "bits": 16, "epochs": 2}
        }

    def test_a_table_replaces_a_value_and_the_other_way_round(self) -> None:
        assert merge({"a": 1}, {"a": {"b": 2, "c": None}}) == {"a": {"b": 2}}
        assert merge({"a": {"b": 2}}, {"a": 1}) == {"a": 1}

    def test_neither_argument_is_changed(self) -> None:
        base, over = {"t": {"a": 1}}, {"t": {"a": 2}}
        merge(base, over)
        assert (base, over) == ({"t": {"a": 1}}, {"t": {"a": 2}})


class TestParseAssignment:
    @pytest.mark.parametrize(
        ("text", "keys", "value"),
        [
            ("victim.bits=64", ["victim", "bits"], 64),
            ("seed=3", ["seed"], 3),
            ("budget.eps=8/255", ["budget", "eps"], "8/255"),
            ("budget.eps=0.5", ["budget", "eps"], 0.5),
            ("victim.pretrained=true", ["victim", "pretrained"], True),
            ("victim.pretrained=True", ["victim", "pretrained"], "True"),
            ("attack.alphas=[0.5, 1]", ["attack", "alphas"], [0.5, 1]),
            ('victim.name="dpsh"', ["victim", "name"], "dpsh"),
            ("victim.name=dpsh", ["victim", "name"], "dpsh"),
            (" victim.name = dpsh ", ["victim", "name"], "dpsh"),
            ("victim.name=a=b", ["victim", "name"], "a=b"),
            ("victim.name=", ["victim", "name"], ""),
        ],
    )
    def test_it_reads(self, text: str, keys: list[str], value: object) -> None:
        got = parse_assignment(text)
        assert got == (keys, value)
        assert type(got[1]) is type(value)

    @pytest.mark.parametrize("text", ["", "victim.bits", "=3", ".bits=3", "victim.=3", "a..b=3"])
    def test_it_says_what_it_expected(self, text: str) -> None:
        with pytest.raises(ConfigError, match=r"--set: expected table\.key=value, got") as got:
            parse_assignment(text)
        assert repr(text) in str(got.value)


class TestReadToml:
    def test_a_missing_file_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match=r"expected a config file, got .*gone.toml: no such"):
            read_toml(tmp_path / "gone.toml")

    def test_a_folder_is_no_config_file(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="expected a config file"):
            read_toml(tmp_path)

    @pytest.mark.parametrize("content", [b"seed = ", b"[victim\n", b"\xff\xfe", b"seed: 3"])
    def test_what_is_no_toml_is_refused_in_one_line(self, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "run.toml"
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=r"expected TOML in .*run.toml, got: ") as got:
            read_toml(file)
        assert "\n" not in str(got.value)
        assert got.value.exit_code == 2


class TestAttackConfig:
    def test_a_config_replays_from_its_file(self, tmp_path: Path) -> None:
        config = AttackConfig.build(
            {
                "seed": 2**63 - 1,
                "victim": {"name": "dpsh", "bits": 16, "backbone": "test_resnet"},
                "attack": {"name": "dhta", "alphas": [0.5, 1.0], "preset": "paper"},
                "dataset": {"name": "digits"},
                "budget": {"eps": "8/255", "eight_bit": False},
                "protocol": {"queries": 7, "ties": "stable", "targets": "weighted"},
            }
        )
        file = tmp_path / "config.toml"
        file.write_text(config.to_toml(), "utf-8")
        assert AttackConfig.build(read_toml(file)) == config

    def test_the_file_holds_every_default_but_none(self) -> None:
        body = tomllib.loads(AttackConfig.build(MINIMAL).to_toml())
        assert body["seed"] == 0
        assert body["protocol"]["ties"] == "expected"
        assert body["protocol"]["empty"] == "zero"
        assert body["protocol"]["targets"] == "disjoint"
        assert body["budget"] == {"eight_bit": True}
        assert "queries" not in body["protocol"]
        assert "database" not in body["protocol"]
        assert AttackConfig.build(body) == AttackConfig.build(MINIMAL)

    def test_an_infinite_radius_survives_the_file(self) -> None:
        config = AttackConfig.build(MINIMAL | {"budget": {"eps": math.inf}})
        again = AttackConfig.build(tomllib.loads(config.to_toml()))
        assert again.budget.resolve(DEFAULT) == Budget("none", math.inf)

    def test_further_keys_of_a_method_are_its_settings(self) -> None:
        config = MethodConfig.build({"name": "dpsh", "bits": 16})
        assert (config.name, config.settings) == ("dpsh", {"bits": 16})
        assert MethodConfig.build({"name": "dpsh"}).settings == {}

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            ({"sed": 1}, "no setting 'sed': did you mean 'seed'? Known here: attack, budget,"),
            ({"budgets": {}}, "no setting 'budgets': did you mean 'budget'?"),
            ({"budget": {"epss": 1}}, "no setting 'budget.epss': did you mean 'eps'?"),
            ({"protocol": {"topk": 1}}, "no setting 'protocol.topk': did you mean 'top_k'?"),
            ({"protocol": {"xyz": 1}}, "no setting 'protocol.xyz': Known here: batch_size,"),
        ],
    )
    def test_an_unknown_key_gets_the_nearest_one(self, extra: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError) as got:
            AttackConfig.build(MINIMAL | extra)
        assert str(got.value).startswith(message)

    @pytest.mark.parametrize(
        ("extra", "field"),
        [
            ({"seed": -1}, "seed"),
            ({"seed": 2**63}, "seed"),
            ({"seed": "x"}, "seed"),
            ({"seed": 1.5}, "seed"),
            ({"victim": "dpsh"}, "victim"),
            ({"victim": {"name": 5}}, "victim.name"),
            ({"budget": {"norm": "l3"}}, "budget.norm"),
            ({"budget": {"eps": [1]}}, "budget.eps"),
            ({"protocol": {"ties": "luck"}}, "protocol.ties"),
            ({"protocol": {"empty": "drop"}}, "protocol.empty"),
            ({"protocol": {"targets": "any"}}, "protocol.targets"),
            ({"protocol": {"top_k": 0}}, "protocol.top_k"),
            ({"protocol": {"queries": 0}}, "protocol.queries"),
            ({"protocol": {"batch_size": 0}}, "protocol.batch_size"),
            ({"command": "train"}, "command"),
        ],
    )
    def test_a_wrong_value_names_the_field_and_what_came(
        self, extra: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(ConfigError, match=rf"^setting '{field}': .*, got ") as got:
            AttackConfig.build(MINIMAL | extra)
        assert "\n" not in str(got.value)
        assert got.value.exit_code == 2

    @pytest.mark.parametrize(
        ("values", "field"),
        [({"victim": {"name": "dpsh"}}, "attack"), (MINIMAL | {"victim": {}}, "victim.name")],
    )
    def test_a_missing_setting_is_named(self, values: dict[str, Any], field: str) -> None:
        with pytest.raises(ConfigError, match=rf"^setting '{field}' is missing: expected "):
            AttackConfig.build(values)

    def test_training_knows_no_attack(self) -> None:
        with pytest.raises(ConfigError, match="no setting 'attack'"):
            TrainConfig.build(MINIMAL)

    def test_an_assigned_value_is_checked_too(self) -> None:
        config = AttackConfig.build(MINIMAL)
        with pytest.raises(ValueError, match="greater than or equal to 1"):
            config.protocol.top_k = 0


class TestBudgetConfig:
    @pytest.mark.parametrize(
        ("values", "budget"),
        [
            ({}, DEFAULT),
            ({"eight_bit": False}, DEFAULT),
            ({"eps": "8/255"}, Budget("linf", 8 / 255)),
            ({"eps": 0.5}, Budget("linf", 0.5)),
            ({"norm": "linf", "eps": "8/255"}, Budget("linf", 8 / 255)),
            ({"norm": "l2", "eps": "2.5"}, Budget("l2", 2.5)),
            ({"norm": "l0", "eps": 3}, Budget("l0", 3)),
            ({"norm": "none"}, Budget("none", math.inf)),
            ({"eps": "none"}, Budget("none", math.inf)),
            ({"norm": "none", "eps": "none"}, Budget("none", math.inf)),
        ],
    )
    def test_it_resolves(self, values: dict[str, Any], budget: Budget) -> None:
        assert BudgetConfig.build(values).resolve(DEFAULT) == budget

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"norm": "linf"}, "norm linf needs an eps: add --eps"),
            ({"norm": "l2"}, "norm l2 needs an eps"),
            ({"norm": "linf", "eps": "none"}, "eps none needs norm none, got norm linf"),
            ({"norm": "l2", "eps": math.inf}, "eps none needs norm none, got norm l2"),
            ({"norm": "none", "eps": "8/255"}, "expected eps=none with norm=none"),
            ({"eps": "eight"}, "expected a number, a fraction such as 8/255"),
            ({"eps": 0}, "expected a positive number"),
            ({"eps": 8}, "write 8/255 for pixel units"),
        ],
    )
    def test_contradictions_are_refused(self, values: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError) as got:
            BudgetConfig.build(values).resolve(DEFAULT)
        assert message in str(got.value)


NESTED = "[" * 20_000 + "]" * 20_000
LONG = "9" * 6000


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (f"seed = {NESTED}".encode(), "deep"),
        (f"seed = {LONG}".encode(), "a number of too many digits"),
        (b"seed = 1979-05-27", "a date, which no setting is"),
        (b"seed = \xff", "no UTF-8 text"),
        (bytes(2**20 + 1), "more than 1,048,576 bytes"),
    ],
    ids=["nested", "digits", "date", "no text", "huge"],
)
def test_a_config_out_of_bounds_is_one_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as got:
        read_toml(file)
    assert str(got.value).startswith(f"expected TOML in {file}, got")
    assert "\n" not in str(got.value)


def test_a_config_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xef\xbb\xbfseed = 3\n")
    assert read_toml(tmp_path / "config.toml") == {"seed": 3}


@pytest.mark.parametrize("value", [NESTED, LONG, "1979-05-27"], ids=["nested", "digits", "date"])
def test_an_assignment_out_of_bounds_is_one_line(value: str) -> None:
    with pytest.raises(ConfigError, match=r"--set victim\.bits: expected a value, got") as got:
        parse_assignment(f"victim.bits={value}")
    assert len(str(got.value)) < 200


def test_a_key_of_an_assignment_is_no_deeper_than_tables_are() -> None:
    with pytest.raises(ConfigError, match="a key of 20000 parts"):
        parse_assignment(".".join("a" * 20_000) + "=1")


@pytest.mark.parametrize(
    "values",
    [{"victim": {"name": "dpsh", "bits": 2**64}}, {"protocol": {"queries": 10**600}}],
    ids=["a setting", "an option"],
)
def test_a_whole_number_that_no_config_could_hold_is_refused(values: dict[str, Any]) -> None:
    """An option is no TOML, and `config.toml` would not be read again."""
    with pytest.raises(ConfigError, match="expected a whole number of 64 bits at most"):
        AttackConfig.build(values)


@pytest.mark.parametrize(
    ("victim", "message"),
    [
        ({"bits": 2**31}, r"'victim.bits': expected a whole number below 2\^31"),
        ({"increments": [[2**40]]}, r"'victim.increments': expected a whole number below 2\^31"),
        ({"learning_rate": 1e308}, "'victim.learning_rate': expected a number up to 3.4e[+]38"),
    ],
)
def test_numbers_that_fit_no_machine_are_refused(victim: dict[str, Any], message: str) -> None:
    """torch would end in a traceback; seeds may have 63 bits."""
    with pytest.raises(ConfigError, match=message):
        AttackConfig.build({"victim": {"name": "dpsh", **victim}, "attack": {"name": "dhta"}})
    config = AttackConfig.build({"victim": {"name": "dpsh"}, "attack": {"name": "dhta"},
                                 "seed": 2**62})  # fmt: skip
    assert config.seed == 2**62


def test_an_assignment_sets_one_value() -> None:
    """What stands on a second line is no further setting that nobody asked for."""
    keys, value = parse_assignment("victim.bits=16\nseed = 3")
    assert (keys, value) == (["victim", "bits"], "16\nseed = 3")
