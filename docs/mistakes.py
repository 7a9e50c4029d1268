"""Mistakes that people make, and what kworker says to each: `python docs/mistakes.py`.

Writes `docs/errors.md` from what the commands print. A test runs all of them again.
"""

from __future__ import annotations

import os
import shlex
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kworker import kafka
from kworker.kafka import embedded
from kworker.kafka.api import NewTopic
from kworker.stores import open_store

HERE = Path(__file__).parent
SOURCES = HERE.parent

SHOP = """from kworker import App, Retry

app = App("shop")


@app.handler("orders", retry=Retry(delays=["5s"]))
def charge(order: dict) -> None: ...


@app.handler("mails")
def mail(letter: dict) -> None: ...
"""

BROKEN = 'from kworker import App\napp = App("shop")\n'


@dataclass(frozen=True, slots=True)
class Mistake:
    """What was done wrong, and how. `KAFKA` and `LOCKED` in a command stand for the addresses
    of a broker, and of one that refuses every password."""

    title: str
    command: str
    code: int
    files: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chapter:
    title: str
    mistakes: tuple[Mistake, ...]


def broken(handler: str) -> dict[str, str]:
    return {"broken.py": BROKEN + handler}


CHAPTERS = (
    Chapter(
        "The app",
        (
            Mistake("A module that is not there", "kworker run shpo:app", 3),
            Mistake("A path in place of a module", "kworker run shop.py", 3),
            Mistake("An attribute that is not there", "kworker run shop:ap", 3),
            Mistake("Something that is no app", "kworker run shop:charge", 3),
            Mistake(
                "A module without an app", "kworker run empty", 3, {"empty.py": "answer = 42\n"}
            ),
            Mistake(
                "A module that cannot be imported",
                "kworker run broken:app",
                3,
                {"broken.py": "import requestz\n"},
            ),
            Mistake(
                "A handler without a topic",
                "kworker run broken:app",
                3,
                broken("@app.handler\ndef charge(order: dict) -> None: ...\n"),
            ),
            Mistake(
                "A handler that takes two payloads",
                "kworker handlers broken:app",
                3,
                broken('@app.handler("orders")\ndef charge(order: dict, mail: str) -> None: ...\n'),
            ),
            Mistake(
                "A handler's option that does not exist",
                "kworker handlers broken:app",
                3,
                broken('@app.handler("orders", retrys=3)\ndef charge(order: dict) -> None: ...\n'),
            ),
            Mistake(
                "A topic that no Kafka takes",
                "kworker handlers broken:app",
                3,
                broken('@app.handler("my orders")\ndef charge(order: dict) -> None: ...\n'),
            ),
            Mistake(
                "A codec that is none",
                "kworker handlers broken:app",
                3,
                broken('@app.handler("orders", codec="avro")\ndef charge(order) -> None: ...\n'),
            ),
            Mistake(
                "A plugin that is none",
                "kworker plugins broken:app",
                3,
                {"broken.py": 'from kworker import App\napp = App("shop", plugins=[42])\n'},
            ),
        ),
    ),
    Chapter(
        "The command line",
        (
            Mistake("A command that does not exist", "kworker rnu shop:app", 2),
            Mistake("An option that does not exist", "kworker run shop:app --concurency 8", 2),
            Mistake("No target", "kworker run", 2),
            Mistake("A time that is none", "kworker dlq list shop:app --since yesterday", 2),
            Mistake("A position that is none", "kworker offsets reset shop:app --to start", 2),
            Mistake(
                "Ids and filters together",
                "kworker dlq replay shop:app shop.dlq/0/1 --error Timeout",
                2,
            ),
            Mistake(
                "A line that is no JSON",
                "kworker publish orders --ndjson --file lines -b KAFKA",
                2,
                {"lines": "id: 2\n"},
            ),
            Mistake(
                "A header that is kworker's own",
                "kworker publish orders -H kworker-hop=1 {} -b KAFKA",
                2,
            ),
            Mistake(
                "A choice of handlers under the group of all",
                "kworker run shop:app --handlers shop.mail -b KAFKA",
                2,
            ),
            Mistake(
                "Positions of a group that has none",
                "kworker offsets show shop:app --group auto",
                2,
            ),
            Mistake(
                "A scaffold over files that are there",
                "kworker init",
                2,
                {"orders.py": "mine = True\n"},
            ),
        ),
    ),
    Chapter(
        "Settings",
        (
            Mistake(
                "A key that does not exist",
                "kworker run shop:app",
                3,
                {"kworker.toml": "concurrency = 8\ncomit_every = 2\n"},
            ),
            Mistake(
                "A unit that does not exist",
                "kworker run shop:app",
                3,
                {"kworker.toml": 'shutdown_timeout = "30 secs"\n'},
            ),
            Mistake(
                "A value of the wrong type",
                "kworker run shop:app",
                3,
                {"kworker.toml": 'concurrency = "many"\n'},
            ),
            Mistake(
                "A file that is no TOML", "kworker run shop:app", 3, {"kworker.toml": "workers 2\n"}
            ),
            Mistake(
                "A group that makes no legal topic", "kworker run shop:app -g 'my shop' -b KAFKA", 3
            ),
            Mistake(
                "A property that would break a promise",
                "kworker run shop:app -X enable.auto.commit=true",
                3,
            ),
            Mistake(
                "A property of Java's client",
                "kworker run shop:app -X max.poll.records=10",
                3,
            ),
            Mistake(
                "A property that does not exist",
                "kworker run shop:app -b KAFKA -X sesion.timeout.ms=9000",
                3,
            ),
            Mistake(
                "A file of a password that is not there",
                "kworker run shop:app",
                3,
                env={"KWORKER_KAFKA__SASL_PASSWORD_FILE": "/run/secrets/kafka"},
            ),
        ),
    ),
    Chapter(
        "Kafka",
        (
            Mistake(
                "Nobody listens there",
                "kworker run shop:app -b 127.0.0.1:1 --connect-timeout 1s",
                4,
            ),
            Mistake(
                "A wrong password",
                "kworker run shop:app -b LOCKED -X security.protocol=SASL_PLAINTEXT "
                "-X sasl.mechanisms=PLAIN -X sasl.username=shop -X sasl.password=wrong "
                "--connect-timeout 2s",
                4,
            ),
            Mistake(
                "A password that would travel in the clear",
                "kworker run shop:app -X sasl.password=secret -X security.protocol=PLAINTEXT",
                3,
            ),
            Mistake(
                "TLS to a port without",
                "kworker run shop:app -b KAFKA -X security.protocol=SSL --connect-timeout 2s",
                4,
            ),
            Mistake(
                "A handler's topic that does not exist",
                "kworker run broken:app -b KAFKA",
                3,
                broken('@app.handler("ordres")\ndef charge(order: dict) -> None: ...\n'),
            ),
            Mistake("The group's topics do not exist", "kworker run shop:app -b KAFKA", 3),
            Mistake("A topic that was mistyped", "kworker tail oders -b KAFKA", 3),
            Mistake(
                "No dead letters, because there is no topic for them",
                "kworker dlq list shop:app -b KAFKA",
                3,
            ),
        ),
    ),
    Chapter(
        "This host",
        (
            Mistake(
                "Another group's store",
                "kworker run shop:app -b KAFKA --create-topics missing -g mine --db other.db",
                5,
            ),
            Mistake(
                "A file that is no store",
                "kworker dedup stats --db shop.py",
                5,
            ),
            Mistake("No store yet", "kworker dedup stats shop:app -g nobody", 5),
            Mistake(
                "A store behind a symbolic link",
                "kworker run shop:app -b KAFKA --create-topics missing -g mine --db link/shop.db",
                5,
            ),
            Mistake(
                "A second `dev` in a folder",
                "kworker dev shop:app",
                2,
                {".kworker/dev.json": '{"bootstrap_servers": "KAFKA", "pid": PID}'},
            ),
            Mistake(
                "A port that somebody else listens on",
                "kworker run shop:app -b KAFKA --create-topics missing -g mine --db mine.db "
                "--health KAFKA",
                3,
            ),
            Mistake("A full disk", "kworker config show > /dev/full", 1),
            Mistake("A Python that is too old", "make PYTHON=false test", 2),
        ),
    ),
)

HEAD = """# Mistakes, and what is said to each

*Written by `docs/mistakes.py` from what the commands print; a test runs each of them again.*

An error is one line (three at most) on stderr: what, where, what now. Its exit code says who can
act ([exit codes](look-up/exit-codes.md)). What is a fault of yours never shows a traceback of
kworker's; `-v` shows yours. Here, an app stands in `shop.py`:

"""


class Room:
    """A folder with an app, a broker with its topics, and one that refuses every password."""

    def __init__(self, folder: Path, servers: str, locked: str) -> None:
        self.folder, self.servers, self.locked = folder, servers, locked

    def said(self, mistake: Mistake) -> tuple[int, str]:
        """The exit code, and what was printed, with what differs between machines taken out."""
        words = shlex.split(
            mistake.command.replace("KAFKA", self.servers).replace("LOCKED", self.locked)
        )
        for name, text in mistake.files.items():
            text = text.replace("KAFKA", self.servers).replace("PID", str(os.getpid()))
            (self.folder / name).write_text(text)
        try:
            if words[0] == "make":
                words[1:1] = ["--no-print-directory", "-B", "-C", str(SOURCES), "-f", "Makefile"]
                words[-1] = ".venv/installed"
            else:
                words[:1] = [sys.executable, "-m", "kworker"]
            if ">" in words:
                words = ["sh", "-c", f"{shlex.join(words[:-2])} > {words[-1]}"]
            done = subprocess.run(
                words,
                cwd=self.folder,
                env={**self._environ(), **mistake.env},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=90,
            )
        finally:
            for name in mistake.files:
                (self.folder / name).unlink()
        return done.returncode, self._plain(done.stdout + done.stderr)

    def _environ(self) -> dict[str, str]:
        kept = {name: text for name, text in os.environ.items() if "KWORKER" not in name}
        return {**kept, "PYTHONPATH": str(SOURCES), "COLUMNS": "100", "LC_ALL": "C.UTF-8"}

    def _plain(self, text: str) -> str:
        for found, shown in (
            (str(self.folder.resolve()), "/home/ann/shop"),
            (self.servers, "kafka:9092"),
            (self.locked, "kafka:9093"),
        ):
            text = text.replace(f"ipv4#{found}", shown).replace(found, shown)
        lines = [line for line in text.splitlines() if not line.startswith(("make", '{"time"'))]
        return "\n".join(lines)


@contextmanager
def room() -> Iterator[Room]:
    """Everything that the mistakes need, for as long as the block lasts."""
    with (
        tempfile.TemporaryDirectory() as name,
        embedded.start() as broker,
        _locked() as locked,
    ):
        folder = Path(name)
        (folder / "shop.py").write_text(SHOP)
        (folder / "real").mkdir()
        (folder / "link").symlink_to(folder / "real")
        open_store(folder / "other.db", group="other", cluster="somewhere").close()
        (folder / ".kworker").mkdir()
        topics = [NewTopic(one, 4, 1, {}) for one in ("orders", "mails")]
        with closing(kafka.connect(broker.bootstrap_servers).admin()) as admin:
            admin.create(topics)
        yield Room(folder, broker.bootstrap_servers, locked)


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"{host}:{port}"


@contextmanager
def _locked() -> Iterator[str]:
    """The address of a broker that knows nothing but to refuse a password."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=_refuse, args=(connection,), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield _address(listening)
        listening.shutdown(socket.SHUT_RDWR)


_REFUSED = b"Authentication failed: Invalid username or password"


def _refuse(connection: socket.socket) -> None:
    """The Kafka protocol as far as a refusal: https://kafka.apache.org/protocol."""
    versions = ((17, 0, 1), (18, 0, 0), (36, 0, 0))
    known = b"".join(struct.pack(">hhh", *one) for one in versions)
    with connection, connection.makefile("rb") as stream:
        while size := stream.read(4):
            request = stream.read(struct.unpack(">i", size)[0])
            key, version, number = struct.unpack(">hhi", request[:8])
            if key == 18:  # ApiVersions; of later versions it only says that it has none
                body = struct.pack(">hi", 35 if version else 0, len(versions)) + known
            elif key == 17:  # SaslHandshake
                body = struct.pack(">hi", 0, 1) + struct.pack(">h", 5) + b"PLAIN"
            else:  # SaslAuthenticate
                body = struct.pack(">hh", 58, len(_REFUSED)) + _REFUSED + struct.pack(">i", 0)
            connection.sendall(struct.pack(">ii", len(body) + 4, number) + body)


def shown(mistake: Mistake, code: int, text: str) -> str:
    """How a mistake stands on the page."""
    command = mistake.command.replace("KAFKA", "kafka:9092").replace("LOCKED", "kafka:9093")
    given = "".join(f"{name}={text} " for name, text in mistake.env.items())
    files = "".join(
        f"# {name}\n{text}\n" for name, text in mistake.files.items() if not name.startswith(".")
    )
    said = f"{files}$ {given}{command}\n{text}\n$ echo $?\n{code}\n"
    return f"### {mistake.title}\n\n```text\n{said}```\n"


def page() -> str:
    parts = [HEAD + f"```python\n{SHOP}```\n"]
    with room() as made:
        for chapter in CHAPTERS:
            parts.append(f"## {chapter.title}\n")
            parts += [shown(one, *made.said(one)) for one in chapter.mistakes]
    return "\n".join(parts)


if __name__ == "__main__":
    (HERE / "errors.md").write_text(page(), encoding="utf-8")
