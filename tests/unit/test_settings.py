from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from kworker import offsets, settings
from kworker.errors import SettingsError


def load(folder, code=None, *, flags=None, environ=None, properties=()):
    return settings.load(
        code or {}, flags=flags or {}, environ=environ or {}, folder=folder, properties=properties
    )


def refusal(folder, *args, **kwargs) -> str:
    with pytest.raises(SettingsError) as refused:
        load(folder, *args, **kwargs)
    return str(refused.value)


def test_without_a_word_every_setting_has_its_default(tmp_path):
    configuration = load(tmp_path)

    assert set(configuration.values) == set(settings.Settings.__annotations__)
    assert configuration.values["bootstrap_servers"] == "localhost:9092"
    assert configuration.values["shutdown_timeout"] == 25.0
    assert configuration.values["dedup_retention"] == 604_800.0
    assert configuration.values["max_in_flight_bytes"] == 64 * 1024 * 1024
    assert set(configuration.origins.values()) == {"default"}


@given(places=st.sets(st.sampled_from(["code", "pyproject", "file", "environ", "flag"])))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_of_all_places_the_one_closest_to_the_operator_holds(tmp_path, places):
    folder = tmp_path / "-".join(["at", *sorted(places)])
    folder.mkdir(exist_ok=True)
    if "pyproject" in places:
        (folder / "pyproject.toml").write_text("[tool.kworker]\nconcurrency = 3\n")
    if "file" in places:
        (folder / "kworker.toml").write_text("concurrency = 4\n")

    configuration = load(
        folder,
        {"concurrency": 2} if "code" in places else {},
        environ={"KWORKER_CONCURRENCY": "5"} if "environ" in places else {},
        flags={"concurrency": "6"} if "flag" in places else {"concurrency": None},
    )

    strength = {
        "flag": (6, "--concurrency"),
        "environ": (5, "KWORKER_CONCURRENCY"),
        "file": (4, "kworker.toml:1"),
        "pyproject": (3, "pyproject.toml:2"),
        "code": (2, "App(…)"),
    }
    expected = next((strength[one] for one in strength if one in places), (1, "default"))
    found = configuration.values["concurrency"], configuration.origins["concurrency"]
    assert found == expected


@pytest.mark.parametrize("one", settings.declared().values(), ids=lambda one: one.name)
def test_a_default_written_as_a_flag_a_variable_or_a_keyword_is_itself(tmp_path, one):
    if one.default_text is None:
        assert one.optional
        return

    for given_ in (
        {"flags": {one.name: one.default_text}},
        {"environ": {one.variable: one.default_text}},
        {"code": {one.name: one.about.default}},
    ):
        configuration = load(tmp_path, given_.pop("code", None), **given_)

        assert configuration.values[one.name] == one.about.default
        assert configuration.origins[one.name] != "default"


def test_nothing_false_or_zero_is_taken_for_missing(tmp_path):
    (tmp_path / "kworker.toml").write_text("accept_topics = true\nshutdown_timeout = 5\n")

    configuration = load(tmp_path, flags={"accept_topics": False, "shutdown_timeout": "0"})

    assert configuration.values["accept_topics"] is False
    assert configuration.values["shutdown_timeout"] == 0.0


def test_durations_and_sizes_are_read_with_their_units_wherever_they_stand(tmp_path):
    (tmp_path / "kworker.toml").write_text('commit_every = "250ms"\nrevoke_timeout = 2\n')

    configuration = load(
        tmp_path,
        {"connect_timeout": "1m"},
        environ={"KWORKER_DEDUP_RETENTION": "2d"},
        flags={"max_in_flight_bytes": "1MiB"},
    )

    assert configuration.values["commit_every"] == 0.25
    assert configuration.values["revoke_timeout"] == 2.0
    assert configuration.values["connect_timeout"] == 60.0
    assert configuration.values["dedup_retention"] == 172_800.0
    assert configuration.values["max_in_flight_bytes"] == 1_048_576


def test_an_unknown_key_is_refused_with_its_file_line_and_the_nearest_name(tmp_path):
    (tmp_path / "kworker.toml").write_text('# ours\n\ncomit_every = "1s"\n')

    text = refusal(tmp_path)

    assert text == ("unknown setting 'comit_every' in kworker.toml:3; did you mean 'commit_every'?")


def test_a_key_is_looked_for_in_its_own_section(tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        "[project]\nname = 'x'\n[tool.other]\nnames = 1\n\n[tool.kworker]\nnames = 1\n"
    )

    text = refusal(tmp_path)

    assert "'names' in pyproject.toml:7;" in text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('shutdown_timeout = "5 parsecs"', "shutdown_timeout in kworker.toml:1: '5 parsecs'"),
        ("shutdown_timeout = -1", "shutdown_timeout in kworker.toml:1: -1"),
        ("shutdown_timeout = [1]", "shutdown_timeout in kworker.toml:1: [1]"),
        ("shutdown_timeout = true", "shutdown_timeout in kworker.toml:1: True"),
        ('concurrency = "4"', "concurrency in kworker.toml:1: '4' is not a whole number"),
        ("concurrency = 0", "concurrency in kworker.toml:1: 0 is too small: at least 1"),
        ("concurrency = 1.5", "concurrency in kworker.toml:1: 1.5 is not a whole number"),
        ("concurrency = true", "concurrency in kworker.toml:1: True is not a whole number"),
        ("accept_topics = 1", "accept_topics in kworker.toml:1: 1 is not true or false"),
        ('group = ""', "group in kworker.toml:1: it is empty"),
        ("group = 1", "group in kworker.toml:1: 1 is not text"),
        ('max_in_flight_bytes = "1 yard"', "max_in_flight_bytes in kworker.toml:1: '1 yard'"),
        ('create_topics = "maybe"', "'maybe' is not one of never, missing"),
        ('start_from = "17"', "is not one of earliest, latest"),
        ("[shutdown_timeout]", "shutdown_timeout in kworker.toml:1: {}"),
        ("kafka = 1", "kafka in kworker.toml:1 must be a table: write [kafka]"),
        ("[kafka]\nconsumer = 1", "kafka.consumer in kworker.toml:2 must be a table"),
        ("[kafka]\ndebug = [1]", "debug in kworker.toml:2 must be text, a number"),
        ("concurrency =", "kworker.toml is not valid TOML: "),
    ],
)
def test_a_malformed_value_is_refused_by_name_value_and_place(tmp_path, content, expected):
    (tmp_path / "kworker.toml").write_text(content + "\n")

    text = refusal(tmp_path)

    assert expected in text
    assert "\n" not in text


def test_a_refusal_names_the_variable_the_flag_or_the_keyword_at_fault(tmp_path):
    variable = refusal(tmp_path, environ={"KWORKER_CONCURRENCY": "many"})
    flag = refusal(tmp_path, flags={"shutdown_timeout": "soon"})
    keyword = refusal(tmp_path, {"commit_every": "often"})
    unknown = refusal(tmp_path, {"commit_evry": 1})

    assert variable == "concurrency in KWORKER_CONCURRENCY: 'many' is not a whole number"
    assert flag.startswith("shutdown_timeout in --shutdown-timeout: 'soon' is not a duration")
    assert keyword.startswith("commit_every in App(…): 'often' is not a duration")
    assert unknown == "unknown setting 'commit_evry' in App(…); did you mean 'commit_every'?"


def test_a_file_that_cannot_be_read_is_refused_by_name(tmp_path):
    (tmp_path / "kworker.toml").write_bytes(b"group = '\xff'\n")

    text = refusal(tmp_path)

    assert text.startswith("kworker.toml cannot be read: ")


def test_an_unknown_variable_is_a_warning_and_what_tests_use_is_none(tmp_path):
    configuration = load(
        tmp_path,
        environ={
            "KWORKER_COMIT_EVERY": "1s",
            "KWORKER_TEST_BOOTSTRAP": "x",
            "KWORKER_FAILPOINT": "x",
            "KWORKER_BROKER_CACHE": "x",
            "KWORKER_REQUIRE_KAFKA": "1",
            "HOME": "x",
        },
    )

    assert configuration.warnings == (
        "the variable KWORKER_COMIT_EVERY is no setting and is ignored; "
        "did you mean 'KWORKER_COMMIT_EVERY'?",
    )


def test_kafkas_own_properties_come_from_tables_variables_and_x_the_later_stronger(tmp_path):
    (tmp_path / "kworker.toml").write_text(
        '[kafka]\n"sasl.username" = "file"\nsecurity.protocol = "SASL_SSL"\n'
        "socket.keepalive.enable = true\n\n"
        "[kafka.consumer]\nfetch.min.bytes = 1\n\n"
        '[kafka.producer]\n"linger.ms" = 5\n'
    )

    configuration = load(
        tmp_path,
        environ={
            "KWORKER_KAFKA__SASL_USERNAME": "variable",
            "KWORKER_KAFKA__CONSUMER__FETCH_MIN_BYTES": "2",
            "KWORKER_KAFKA__PRODUCER__COMPRESSION_TYPE": "lz4",
        },
        properties=["debug=cgrp,topic", "security.protocol=SSL", "sasl.password=a=b"],
    )

    assert dict(configuration.kafka.items()) == {
        "sasl.username": "variable",
        "security.protocol": "SSL",
        "socket.keepalive.enable": "true",
        "debug": "cgrp,topic",
        "sasl.password": "a=b",
    }
    assert dict(configuration.kafka_consumer.items()) == {"fetch.min.bytes": "2"}
    assert dict(configuration.kafka_producer.items()) == {
        "linger.ms": "5",
        "compression.type": "lz4",
    }


def test_properties_of_pyproject_are_read_from_its_own_table(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.kworker.kafka.consumer]\nfetch.min.bytes = 7\n")

    configuration = load(tmp_path)

    assert configuration.kafka_consumer["fetch.min.bytes"] == "7"


SECRETS = [
    "sasl.password",
    "ssl.key.password",
    "ssl.keystore.password",
    "ssl.key.pem",
    "ssl_key",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
    "sasl.jaas.config",
]


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_in_no_text_form(tmp_path, name):
    (tmp_path / "kworker.toml").write_text(f'[kafka.consumer]\n"{name}" = "hunter2"\n')

    configuration = load(
        tmp_path,
        properties=[f"{name}=hunter2"],
        environ={"KWORKER_KAFKA__PRODUCER__" + name.replace(".", "_").upper(): "hunter2"},
    )

    scopes = (configuration.kafka, configuration.kafka_consumer, configuration.kafka_producer)
    assert configuration.kafka[name] == "hunter2"
    for one in (configuration, *scopes):
        assert "hunter2" not in f"{one!r} {one}"


def test_what_is_no_secret_is_shown():
    shown = settings.Properties({"security.protocol": "SSL", "ssl.key.location": "client.key"})

    assert repr(shown) == "{'security.protocol': 'SSL', 'ssl.key.location': 'client.key'}"


def test_half_a_property_is_refused_without_being_shown(tmp_path):
    text = refusal(tmp_path, properties=["hunter2"])

    assert "KEY=VALUE" in text
    assert "hunter2" not in text


def test_every_setting_has_help_a_flag_and_a_variable():
    for one in settings.declared().values():
        assert one.about.help.endswith("."), one.name
        assert one.flag == "--" + one.name.replace("_", "-")
        assert one.variable == "KWORKER_" + one.name.upper()
        assert one.switch or one.metavar


def test_what_an_app_gives_is_checked_at_once():
    checked = settings.check({"commit_every": "2s", "group": None})

    assert checked == {"commit_every": 2.0, "group": None}
    with pytest.raises(SettingsError, match="did you mean 'concurrency'"):
        settings.check({"concurency": 1})


def test_the_folder_may_be_given_as_text(tmp_path: Path):
    (tmp_path / "kworker.toml").write_text("concurrency = 9\n")

    configuration = load(str(tmp_path))

    assert configuration.values["concurrency"] == 9


def test_a_point_in_time_may_be_written_as_toml_has_it(tmp_path):
    for written in ("2026-01-31T12:00:00Z", "2026-01-31T12:00:00", "2026-01-31"):
        (tmp_path / "kworker.toml").write_text(f"start_from = {written}\n")

        found = load(tmp_path).values["start_from"]

        assert offsets.moment(found, 0.0) == offsets.moment(written, 0.0)


def test_a_secret_may_stand_in_a_file_that_a_variable_names(tmp_path):
    secret = tmp_path / "password"
    secret.write_text("hunter2 \n")

    configuration = load(
        tmp_path,
        environ={
            "KWORKER_KAFKA__SASL_PASSWORD_FILE": str(secret),
            "KWORKER_KAFKA__CONSUMER__SSL_KEY_PASSWORD_FILE": str(secret),
        },
    )

    assert dict(configuration.kafka) == {"sasl.password": "hunter2 "}
    assert dict(configuration.kafka_consumer) == {"ssl.key.password": "hunter2 "}
    assert configuration.origins["kafka.sasl.password"] == "KWORKER_KAFKA__SASL_PASSWORD_FILE"
    assert configuration.warnings == ()
    assert "hunter2" not in repr(configuration)


def test_a_file_of_a_secret_that_cannot_be_read_is_refused_and_nothing_of_it_is_told(tmp_path):
    variable = "KWORKER_KAFKA__SASL_PASSWORD_FILE"
    (tmp_path / "bytes").write_bytes(b"hunter2\xff")

    for path in ("hunter2", str(tmp_path), str(tmp_path / "bytes")):
        told = refusal(tmp_path, environ={variable: path})

        assert told.startswith(f"{variable}: the file that it names cannot be read: ")
        assert "hunter2" not in told
    twice = {variable: "x", "KWORKER_KAFKA__SASL_PASSWORD": "hunter2"}
    assert "say the same property twice" in refusal(tmp_path, environ=twice)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            'commit_every = "5sec"',
            "'5sec' is not a duration: 'sec' is none of its units d, h, m, s and ms",
        ),
        ('commit_every = "2 weeks"', "'weeks' is none of its units"),
        ('commit_every = "5M"', "'M' is none of its units"),
        ('max_in_flight_bytes = "3 megs"', "'megs' is none of its units B, kB"),
    ],
)
def test_a_wrong_unit_is_named_with_its_file_and_line(tmp_path, content, expected):
    (tmp_path / "kworker.toml").write_text(f"concurrency = 2\n{content}\n")

    told = refusal(tmp_path)

    assert told.startswith(f"{content.split()[0]} in kworker.toml:2: ")
    assert expected in told
