from __future__ import annotations

import subprocess
import sys
import time
import types

import click
import pytest
from click.testing import CliRunner

from kworker import errors, settings
from kworker.cli import main as cli
from kworker.errors import Bug, KworkerError

NOBODY = "127.0.0.1:1"  # nothing listens there


def one_line(done) -> str:
    """What a fault of the user's looks like: nothing on stdout, one line on stderr."""
    assert done.stdout == ""
    assert done.stderr.endswith("\n")
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("kworker: error: ")
    return done.stderr.removeprefix("kworker: error: ").strip()


def test_a_target_that_does_not_exist_is_one_line_and_3(command):
    done = command("run", "nosuch:app")

    assert "nosuch" in one_line(done)
    assert done.returncode == 3


def test_a_broker_that_is_not_there_is_one_line_and_4(command, shop):
    done = command("run", "shop:app", "-b", NOBODY, "--connect-timeout", "1s")

    assert one_line(done).startswith(f"cannot reach Kafka at {NOBODY} within 1 s: ")
    assert done.returncode == 4


def test_a_module_that_raises_is_one_line_and_with_v_its_own_traceback(command, tmp_path):
    (tmp_path / "broken.py").write_text("def deep():\n    return 1 / 0\n\ndeep()\n")

    quiet, verbose = command("run", "broken:app"), command("run", "broken:app", "-v")

    assert "division by zero" in one_line(quiet)
    assert (quiet.returncode, verbose.returncode) == (3, 3)
    assert "return 1 / 0" in verbose.stderr
    assert "ZeroDivisionError" in verbose.stderr
    assert "kworker/target.py" not in verbose.stderr
    assert "importlib" not in verbose.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "shop:app", "--nonsense"],
        ["run"],
        ["nosuch"],
        ["publish"],
        ["publish", "orders"],
        ["publish", "orders", "value", "--file", "nosuch"],
        ["publish", "orders", "value", "-H", "no-equals-sign"],
        ["publish", "orders", "value", "-H", "kworker-message-id=mine"],
        ["publish", "orders", "value", "--ndjson"],
        ["dev", "shop:app", "--broker", "nonsense"],
        ["dev", "shop:app", "--broker", "mock", "-b", NOBODY],
    ],
)
def test_what_was_typed_wrongly_is_2(command, shop, arguments):
    done = command(*arguments)

    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr


def test_an_unknown_key_in_a_file_is_3_and_names_the_file_and_the_nearest(command, shop, tmp_path):
    (tmp_path / "kworker.toml").write_text('comit_every = "1s"\n')

    done = command("run", "shop:app")

    assert one_line(done) == (
        "unknown setting 'comit_every' in kworker.toml:1; did you mean 'commit_every'?"
    )
    assert done.returncode == 3


@pytest.mark.parametrize(
    ("arguments", "variables", "origin"),
    [
        (["--shutdown-timeout", "5 parsecs"], {}, "--shutdown-timeout"),
        ([], {"KWORKER_SHUTDOWN_TIMEOUT": "5 parsecs"}, "KWORKER_SHUTDOWN_TIMEOUT"),
    ],
)
def test_a_bad_duration_is_3_wherever_it_was_given(command, shop, arguments, variables, origin):
    done = command("run", "shop:app", *arguments, **variables)

    assert one_line(done).startswith(f"shutdown_timeout in {origin}: '5 parsecs' is not a duration")
    assert done.returncode == 3


@pytest.mark.parametrize(
    "arguments",
    [["--revoke-timeout", "60s"], ["-X", "max.poll.interval.ms=50000"]],
)
def test_a_revoke_timeout_that_the_group_would_not_wait_for_is_3(command, shop, arguments):
    done = command("run", "shop:app", "-b", NOBODY, "--connect-timeout", "20s", *arguments)

    assert one_line(done).startswith("revoke_timeout: ")
    assert "half of max.poll.interval.ms" in done.stderr
    assert done.returncode == 3


@pytest.mark.parametrize("where", ["variable", "file", "file over variable"])
def test_a_choice_of_handlers_in_the_group_that_a_file_or_variable_names_is_2(
    command, shop, tmp_path, where
):
    with shop.open("a") as file:
        file.write('@app.handler("orders")\ndef notify(order: dict) -> None: ...\n')
    if where != "variable":
        (tmp_path / "kworker.toml").write_text('group = "mine"\n')
    variables = {"KWORKER_GROUP": "mine"} if where != "file" else {}

    done = command(
        "run", "shop:app", "--handlers", "shop.charge", "-g", "mine", "-b", NOBODY,
        "--connect-timeout", "1s", **variables,
    )  # fmt: skip

    assert "shop.notify would be left out" in one_line(done)
    assert done.returncode == 2


def test_a_setting_that_an_app_gives_wrongly_is_3(command, tmp_path):
    (tmp_path / "shop.py").write_text("from kworker import App\napp = App('shop', comit_every=1)\n")

    done = command("run", "shop:app")

    assert "did you mean 'commit_every'?" in one_line(done)
    assert done.returncode == 3


def test_a_worker_that_cannot_reach_kafka_is_4_after_the_connect_timeout(command, shop):
    begun = time.monotonic()

    done = command("run", "shop:app", "-b", NOBODY, "--connect-timeout", "1s")

    assert done.returncode == 4, done.stderr
    assert time.monotonic() - begun < 15
    assert NOBODY in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_publishing_without_kafka_is_4(command):
    done = command("publish", "orders", "{}", "-b", NOBODY, "--publish-wait", "1s")

    assert done.returncode == 4, done.stderr
    assert done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith("kworker: error: ")


def test_a_secret_is_never_printed_wherever_it_came_from(command, shop, tmp_path):
    (tmp_path / "kworker.toml").write_text('[kafka]\n"sasl.password" = "hunter2-file"\n')
    everywhere = {
        "KWORKER_KAFKA__SSL_KEY_PASSWORD": "hunter2-variable",
        "KWORKER_KAFKA__CONSUMER__SASL_PASSWORD": "hunter2-consumer",
    }

    for more in (
        ["-X", "sasl.oauthbearer.client.secret=hunter2-flag"],
        ["-X", "sasl.password=hunter2-flag", "-X", "enable.auto.commit=true"],
        ["-X", "hunter2-alone"],
    ):
        done = command(
            "run", "shop:app", "-v", "-b", NOBODY, "--connect-timeout", "1s", *more, **everywhere
        )

        assert done.returncode in (3, 4), done.stderr
        assert "hunter2" not in done.stdout + done.stderr


CANARY = "hunter2"
READERS = (
    ("config", "show"),
    ("config", "show", "shop:app", "--origin", "--json", "-v"),
    ("check", "shop:app", "--json", "-v", "-b", NOBODY, "--connect-timeout", "0.3s"),
    ("lag", "shop:app", "-v", "-b", NOBODY, "--connect-timeout", "0.3s"),
    ("publish", "orders", "{}", "-v", "-b", NOBODY, "--publish-wait", "0.3s"),
    ("run", "shop:app", "-v", "-b", NOBODY, "--connect-timeout", "0.3s"),
)


@pytest.mark.parametrize("arguments", READERS, ids=" ".join)
def test_no_command_prints_a_secret_from_a_file_a_variable_a_mounted_file_or_a_flag(
    command, shop, tmp_path, arguments
):
    (tmp_path / "kworker.toml").write_text(
        f'[kafka]\nsasl.oauthbearer.client.secret = "{CANARY}-toml"\n'
        f'[kafka.producer]\n"ssl.key.pem" = "{CANARY}-pem"\n'
    )
    (tmp_path / "mounted").write_text(f"{CANARY}-mounted\n")

    for flag in (f"ssl.keystore.password={CANARY}-flag", f"security.protocol={CANARY}-misplaced"):
        done = command(
            *arguments,
            *("-X", flag),
            KWORKER_KAFKA__SASL_PASSWORD=f"{CANARY}-variable",
            KWORKER_KAFKA__SSL_KEY_PASSWORD_FILE=str(tmp_path / "mounted"),
        )

        told = done.stdout + done.stderr
        if flag.startswith("security.protocol") and arguments[0] == "config":
            told = told.replace(f"{CANARY}-misplaced", "")  # its name says that it is none
        assert CANARY not in told, told


def test_an_unknown_variable_is_a_warning(command, shop):
    done = command("run", "shop:app", "--shutdown-timeout", "x", KWORKER_COMIT_EVERY="1s")
    assert "KWORKER_COMIT_EVERY" not in done.stderr

    done = command("publish", "t", "v", "-b", NOBODY, "--publish-wait", "0", KWORKER_COMIT="1s")
    assert "KWORKER_COMIT is no setting" in done.stderr


def test_every_setting_is_a_flag_of_run(command):
    done = command("run", "--help")

    for one in settings.declared().values():
        assert one.flag in done.stdout


def test_help_lists_the_commands_and_loads_nothing_heavy(env):
    program = (
        "import sys, kworker.cli.main as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'confluent_kafka', 'pydantic', 'rich', 'watchfiles', 'sqlite_utils'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )

    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=env,
        timeout=60,
    )

    assert done.returncode == 0, done.stderr
    for name in cli.COMMANDS:
        assert f"\n  {name}" in done.stdout


@pytest.mark.parametrize("name", list(cli.COMMANDS))
def test_every_command_that_is_listed_can_be_called(command, name):
    done = command(name, "-h")

    assert done.returncode == 0, done.stderr
    assert f"\nUsage: kworker {name} " in done.stdout


def called(monkeypatch, error: Exception):
    """What comes of a command that raises."""

    @click.command()
    def boom() -> None:
        raise error

    module = types.ModuleType("kworker.cli.boom")
    module.command = boom
    monkeypatch.setitem(sys.modules, "kworker.cli.boom", module)
    monkeypatch.setitem(cli.COMMANDS, "boom", "Raise.")
    return CliRunner().invoke(cli.group, ["boom"])


def test_what_nobody_foresaw_is_told_as_our_bug_with_its_traceback(monkeypatch):
    done = called(monkeypatch, ZeroDivisionError("oops"))

    assert done.exit_code == 1
    assert done.stderr.startswith("kworker: error: this is a bug in kworker, please report it")
    assert "Traceback (most recent call last)" in done.stderr
    assert "ZeroDivisionError: oops" in done.stderr


@pytest.mark.parametrize(
    "kind",
    [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, KworkerError) and kind is not Bug
    ],
)
def test_an_error_of_ours_ends_the_command_with_its_exit_code(monkeypatch, kind):
    done = called(monkeypatch, kind("what\nand where"))

    assert done.exit_code == kind.exit_code
    assert "what and where" in done.stderr.splitlines()[0]


def test_an_error_cannot_move_the_terminals_cursor(monkeypatch):
    done = called(monkeypatch, KworkerError("no \x1b[2J\u202e\x9b such"))

    assert done.stderr == "kworker: error: no \\x1b[2J\\u202e\\x9b such\n"
