"""Where each value comes from, and what is refused, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from uhlm_edge.common.errors import ConfigError
from uhlm_edge.configs.layers import Loaded, changed, config_folder, load_config, profiles

N_CTX = ("device", "engine", "n_ctx")


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """An environment with a folder of the user's own, which is empty."""
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def own_file(home: dict[str, str], text: str) -> Path:
    file = config_folder(home) / "config.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, "utf-8")
    return file


def load(home: dict[str, str], flags: dict[tuple[str, ...], Any] | None = None) -> Loaded:
    return load_config(flags or {}, environment=home)


def refusal(home: dict[str, str], flags: dict[tuple[str, ...], Any] | None = None) -> str:
    """The message; it is one line."""
    with pytest.raises(ConfigError) as caught:
        load(home, flags)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", profiles())
def test_every_shipped_profile_loads(home: dict[str, str], name: str) -> None:
    loaded = load_config({}, profile=name, environment=home)
    assert f"profile {name}" in loaded.origins.values()


def test_each_layer_covers_the_ones_below(home: dict[str, str]) -> None:
    path = ("chat", "max_tokens")

    def read(loaded: Loaded) -> int:
        return loaded.config.chat.max_tokens

    origins = [load(home).origins.get(path)]
    file = own_file(home, "[chat]\nmax_tokens = 11\n")
    assert read(load(home)) == 11
    origins.append(load(home).origins[path])
    home["UHLM_CHAT_MAX_TOKENS"] = "12"
    assert read(load(home)) == 12
    origins.append(load(home).origins[path])
    assert read(load(home, {path: 13})) == 13
    origins.append(load(home, {path: 13}).origins[path])
    assert origins == ["profile demo", str(file), "environment", "flag"]


def test_a_flag_that_was_not_given_covers_nothing(home: dict[str, str]) -> None:
    home["UHLM_CHAT_MAX_TOKENS"] = "12"
    assert load(home, {("chat", "max_tokens"): None}).config.chat.max_tokens == 12


def test_a_file_is_read_in_place_of_the_user_s_own(home: dict[str, str], tmp_path: Path) -> None:
    own_file(home, "[chat]\nmax_tokens = 11\n")
    other = tmp_path / "other.toml"
    other.write_text("device.engine.n_ctx = 99\n", "utf-8")
    for loaded in (
        load_config({}, file=other, environment=home),
        load_config({}, environment=home | {"UHLM_CONFIG": str(other)}),
    ):
        assert loaded.config.device.engine.n_ctx == 99
        assert loaded.config.chat.max_tokens == 512


def test_each_value_is_shown_with_where_it_came_from(home: dict[str, str]) -> None:
    home["UHLM_DEVICE_ENGINE_N_CTX"] = "512"
    rows = {key: (value, origin) for key, value, origin in load(home).rows()}
    assert rows["device.engine.n_ctx"] == (512, "environment")
    assert rows["cloud.demo"] == (True, "profile demo")
    assert rows["sampler.temperature"] == (0.6, "default")


def test_nothing_can_be_changed_afterwards(home: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="frozen"):
        load(home).config.chat.max_tokens = 1  # type: ignore[misc]


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("0", False), ("", False)])
def test_no_cloud_means_offline(home: dict[str, str], value: str, offline: bool) -> None:
    assert load(home | {"UHLM_NO_CLOUD": value}).config.cloud.offline is offline


@pytest.mark.parametrize(
    ("given", "read"), [("0.25", 0.25), ("-1", -1.0), (1, 1.0), ("prone", "prone")]
)
def test_a_threshold_is_a_number_or_a_name(home: dict[str, str], given: Any, read: Any) -> None:
    assert load(home, {("strategy", "threshold"): given}).config.strategy.threshold == read


# A threshold goes with its score

CHANGES: list[tuple[dict[str, Any], bool]] = [
    ({"name": "spec"}, True),  # asks by u too
    ({"name": "local"}, True),  # has none: it waits for the next change
    ({"name": "reward"}, False),
    ({"name": "handoff"}, False),
    ({"ask_by": "head"}, False),
    ({"name": "reward", "threshold": 0.5}, True),  # comes with it
]


@pytest.mark.parametrize(("values", "kept"), CHANGES)
@pytest.mark.parametrize("layer", ["file", "environment", "flag", "option"])
def test_a_threshold_goes_with_its_score(
    home: dict[str, str], layer: str, values: dict[str, Any], kept: bool
) -> None:
    flags: dict[tuple[str, ...], Any] = {("strategy", k): v for k, v in values.items()}
    if layer == "file":  # above a profile that gives one
        below = load_config({}, "paper", environment=home).config.strategy.threshold
        text = "".join(f"{name} = {value!r}\n" for name, value in values.items())
        own_file(home, f"[strategy]\n{text}")
        config = load_config({}, "paper", environment=home).config
    else:
        below = 0.5
        own_file(home, "[strategy]\nthreshold = 0.5\n")
        if layer == "environment":
            given = {f"UHLM_STRATEGY_{k.upper()}": str(v) for k, v in values.items()}
            config = load(home | given).config
        elif layer == "flag":
            config = load(home, flags).config
        else:
            config = changed(load(home).config, flags)
    assert config.strategy.threshold == values.get("threshold", below if kept else None)
    for name, value in values.items():
        assert getattr(config.strategy, name) == value


def test_a_threshold_that_does_not_count_is_told_with_its_origin(home: dict[str, str]) -> None:
    file = own_file(home, "[strategy]\nthreshold = 0.5\n")
    loaded = load(home, {("strategy", "name"): "handoff"})
    (told,) = loaded.warnings
    assert told.startswith(f"the threshold 0.5 ({file}) is of uncertainty, and handoff decides by")
    assert ("strategy.threshold", None, "default") in loaded.rows()


def test_a_strategy_without_a_threshold_needs_no_word_about_one(home: dict[str, str]) -> None:
    own_file(home, '[strategy]\nname = "handoff"\nthreshold = 0.05\n')
    assert load(home, {("strategy", "name"): "local"}).warnings == ()


def test_a_threshold_of_a_flag_is_of_the_strategy_below(home: dict[str, str]) -> None:
    own_file(home, '[strategy]\nname = "handoff"\nthreshold = 0.05\n')
    loaded = load(home, {("strategy", "threshold"): "0.2"})
    assert (loaded.config.strategy.threshold, loaded.warnings) == (0.2, ())


def test_a_threshold_does_not_come_back_for_another_score(home: dict[str, str]) -> None:
    config = load(home, {("strategy", "name"): "reward", ("strategy", "threshold"): 0.3}).config
    for name in ("local", "uhlm"):
        config = changed(config, {("strategy", "name"): name})
    assert config.strategy.threshold is None


# What is refused


def test_an_unknown_profile_lists_those_there_are(home: dict[str, str]) -> None:
    message = refusal(home | {"UHLM_PROFILE": "dmeo"})
    assert message.startswith("no profile named 'dmeo'; there are: ")
    assert "demo" in message


def test_the_catalogue_of_models_is_no_profile(home: dict[str, str]) -> None:
    assert "no profile named 'catalogue'" in refusal(home | {"UHLM_PROFILE": "catalogue"})


def test_an_unknown_key_names_the_file_and_what_was_meant(home: dict[str, str]) -> None:
    file = own_file(home, "[strategy]\ntreshold = 0.3\n")
    expected = f"unknown key strategy.treshold ({file}); did you mean strategy.threshold?"
    assert refusal(home) == expected


def test_an_unknown_variable_is_a_warning_that_names_what_was_meant(home: dict[str, str]) -> None:
    loaded = load_config({}, environment=home | {"UHLM_STRATEGY_TRESHOLD": "0.3"})
    (warning,) = loaded.warnings
    assert "did you mean UHLM_STRATEGY_THRESHOLD?" in warning
    assert loaded.config.strategy.threshold is None


def test_an_empty_variable_sets_nothing(home: dict[str, str]) -> None:
    loaded = load_config({}, environment=home | {"UHLM_CHAT_MAX_TOKENS": " "})
    assert loaded.config == load_config({}, environment=home).config
    assert loaded.warnings == ()


def test_a_key_like_nothing_known_points_to_the_list(home: dict[str, str]) -> None:
    own_file(home, "zzz = 1\n")
    assert refusal(home).endswith("see `uhlm-edge config show`")


def test_a_section_that_is_a_value_is_refused(home: dict[str, str]) -> None:
    for text in ("device = 3\n", "[[device]]\nmodel = 'x'\n"):
        own_file(home, text)
        assert refusal(home).startswith("device is a section (")
        assert refusal(home).endswith("write [device], and its keys below")


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        (("strategy", "name"), "hml", "must be local, cloud, hlm,"),
        (("strategy", "threshold"), "avers", "must be a number, averse, prone, risk or adaptive"),
        (("strategy", "threshold"), "nan", "finite"),
        (("strategy", "rate"), "2", "at most 1"),
        (("sampler", "temperature"), "-1", "at least 0"),
        (("sampler", "temperature"), "inf", "finite"),
        (("sampler", "top_p"), "0", "more than 0"),
        (("chat", "seed"), str(2**64), "less than 18446744073709551616"),
        (("chat", "max_tokens"), "0", "at least 1"),
        (("chat", "max_tokens"), "many", "must be a whole number"),
        (("cloud", "deadline"), "0", "more than 0"),
        (("device", "wire_top"), "257", "at most 256"),
        (N_CTX, "-1", "at least 0"),
        (
            ("device", "engine", "n_threads"),
            "513",
            "at most 512",
        ),  # llama.cpp would end the process
        (("device", "engine", "cache_type_k"), "q3", "must be f32,"),
        (("verifier", "port"), "65536", "at most 65535"),
    ],
    ids=lambda x: ".".join(x) if isinstance(x, tuple) else x,
)
def test_a_value_that_cannot_be_says_which_and_why(
    home: dict[str, str], path: tuple[str, ...], value: str, reason: str
) -> None:
    message = refusal(home | {"UHLM_" + "_".join(path).upper(): value})
    assert message.startswith(f"{'.'.join(path)} = {value!r} (environment): ")
    assert reason in message


def test_true_is_no_number(home: dict[str, str]) -> None:
    for key in ("strategy.threshold", "chat.max_tokens", "sampler.top_k"):
        own_file(home, f"{key} = true\n")
        assert f"{key} = True (" in refusal(home)
        assert refusal(home).endswith("must be a number")


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"[chat\n", "Expected"), (b"\xff\xfe", "utf-8"), (None, "No such file or directory")],
    ids=["no TOML", "no UTF-8", "missing"],
)
def test_a_file_that_cannot_be_read_is_named(
    home: dict[str, str], tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "odd.toml"
    if content is not None:
        file.write_bytes(content)
    message = refusal(home | {"UHLM_CONFIG": str(file)})
    assert message.startswith(f"config file {file}: ")
    assert reason in message
