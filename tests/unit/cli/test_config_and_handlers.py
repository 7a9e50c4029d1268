from __future__ import annotations

import json

import pytest

from kworker import settings

SECRET = "correct-horse-battery"


def shown(command, *arguments: str, **variables: str):
    done = command("config", "show", "--json", *arguments, **variables)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "kworker.config.show/1"
    return {one.pop("name"): one for one in (*document["settings"], *document["kafka"])}


def test_every_setting_is_shown_with_its_value_unit_and_origin(command, tmp_path, shop):
    (tmp_path / "kworker.toml").write_text('max_in_flight = 7\n\n[kafka]\n"client.rack" = "a"\n')

    found = shown(
        command,
        "shop:app",
        "--commit-every",
        "250ms",
        "-X",
        "sasl.username=me",
        KWORKER_MAX_IN_FLIGHT_BYTES="1MiB",
        KWORKER_KAFKA__CONSUMER__FETCH_MIN_BYTES="9",
    )

    assert found.keys() >= settings.declared().keys()
    assert found["commit_every"] == {"value": 0.25, "unit": "seconds", "origin": "--commit-every"}
    assert found["max_in_flight"] == {"value": 7, "unit": None, "origin": "kworker.toml:1"}
    assert found["max_in_flight_bytes"] == {
        "value": 2**20,
        "unit": "bytes",
        "origin": "KWORKER_MAX_IN_FLIGHT_BYTES",
    }
    assert found["group"] == {"value": "shop", "unit": None, "origin": "default"}
    assert found["db"]["value"] == ".kworker/shop.db"
    assert found["kafka.client.rack"] == {"value": "a", "origin": "kworker.toml:4"}
    assert found["kafka.sasl.username"] == {"value": "me", "origin": "-X"}
    assert found["kafka.consumer.fetch.min.bytes"] == {
        "value": "9",
        "origin": "KWORKER_KAFKA__CONSUMER__FETCH_MIN_BYTES",
    }


def test_without_a_target_what_an_app_decides_is_left_open(command):
    found = shown(command)

    assert (found["group"]["value"], found["db"]["value"]) == (None, None)


def test_people_see_values_as_they_would_write_them_and_origins_when_asked(command, shop):
    plain = command("config", "show", "shop:app").stdout.splitlines()
    told = command("config", "show", "shop:app", "--origin").stdout.splitlines()

    assert [line.split() for line in plain[:2]] == [
        ["SETTING", "VALUE"],
        ["bootstrap_servers", "localhost:9092"],
    ]
    assert ["max_in_flight_bytes", "64MiB", "default"] in [line.split() for line in told]


@pytest.mark.parametrize("how", [[], ["--json"], ["--origin", "-v"]])
def test_secrets_are_shown_as_stars_wherever_they_came_from(command, tmp_path, shop, how):
    (tmp_path / "kworker.toml").write_text(
        f'[kafka]\n"ssl.key.password" = "{SECRET}1"\n[kafka.producer]\n'
        f'"sasl.oauthbearer.client.secret" = "{SECRET}2"\n'
    )

    done = command(
        "config", "show", "shop:app", *how, "-X", f"ssl.key.pem={SECRET}3",
        KWORKER_KAFKA__SASL_PASSWORD=f"{SECRET}4",
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert done.stdout.count("******") == 4


def test_an_unknown_setting_and_an_app_that_is_not_there_are_3(command, tmp_path):
    missing = command("config", "show", "nosuch:app")
    (tmp_path / "kworker.toml").write_text('comit_every = "1s"\n')
    unknown = command("config", "show")

    assert [one.returncode for one in (missing, unknown)] == [3, 3]
    assert unknown.stderr == (
        "kworker: error: unknown setting 'comit_every' in kworker.toml:1; did you mean "
        "'commit_every'?\n"
    )


def test_a_property_that_run_would_refuse_is_refused_here_too(command, tmp_path):
    (tmp_path / "kworker.toml").write_text('[kafka.consumer]\n"enable.auto.commit" = "true"\n')

    refused = command("config", "show")

    assert refused.returncode == 3
    assert "Kafka property 'enable.auto.commit' is refused: only settled" in refused.stderr
    assert refused.stdout == ""


APP = """
from kworker import App, Retry

app = App("shop", concurrency=8)

@app.handler("orders", "returns", retry=Retry(attempts=1, delays=["5s", 90]))
def charge(order: dict) -> None: ...

@app.handler("mail", name="mail", order="none", concurrency=2)
async def send(mail: dict) -> None: ...
"""


def test_handlers_are_listed_as_programs_may_read_them(command, tmp_path):
    (tmp_path / "shop.py").write_text(APP)

    done = command("handlers", "shop:app", "--json")

    assert json.loads(done.stdout) == {
        "schema": "kworker.handlers/1",
        "handlers": [
            {
                "name": "shop.charge",
                "topics": ["orders", "returns"],
                "retry": {"attempts": 1, "delays": ["5s", "90s"], "calls": 3},
                "order": "key",
                "concurrency": None,
                "async": False,
                "where": "shop.py:6",
            },
            {
                "name": "mail",
                "topics": ["mail"],
                "retry": {"attempts": 3, "delays": [], "calls": 3},
                "order": "none",
                "concurrency": 2,
                "async": True,
                "where": "shop.py:9",
            },
        ],
    }


def test_people_see_a_handler_a_line(command, tmp_path):
    (tmp_path / "shop.py").write_text(APP)

    lines = command("handlers", "shop:app").stdout.splitlines()

    assert [line.split("  ")[0] for line in lines] == ["NAME", "shop.charge", "mail"]
    assert "1 call, then after 5s, 90s" in lines[1]
    assert [line.split()[-2:] for line in lines[1:]] == [["8", "shop.py:6"], ["2", "shop.py:9"]]


def test_an_app_whose_handlers_cannot_work_is_3(command, tmp_path):
    (tmp_path / "shop.py").write_text("from kworker import App\napp = App('shop')\n")

    done = command("handlers", "shop:app")

    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (3, "", 1)
