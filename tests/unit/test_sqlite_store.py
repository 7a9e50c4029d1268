"""The SQLite file: whose it is, what can be wrong with it, how people read it."""

from __future__ import annotations

import os
import sqlite3
import stat
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlite_utils import Database

from kworker.errors import StoreError
from kworker.ranges import Ranges
from kworker.stores import Store, default_path, open_store
from kworker.stores.api import Attempt, Log, Mark, Turn
from kworker.stores.sqlite import care, schema
from kworker.stores.sqlite.turnstile import Turnstile
from kworker.testing.stores import StoreClock

MARK = Mark("shop.charge", "orders", "a-1")
LOG = Log("SvXW3IK6RDOpYRbJWUA3QQ", 0)
NOBODY = 65534


def opened(path: Path, *, group: str = "shop", cluster: str = "c1", now: float = 0.0) -> Store:
    return open_store(path, group=group, cluster=cluster, clock=StoreClock(now))


def made(path: Path) -> Path:
    """A store that was written to and closed."""
    with closing(opened(path)) as store:
        store.record(Turn(seen=[MARK], done={("shop.charge", LOG): Ranges([(0, 9)])}))
    return path


def change(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may write anywhere, so as somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


# ------------------------------------------------------------------ whose it is


def test_a_store_of_another_group_is_refused(tmp_path: Path):
    path = made(tmp_path / "k" / "shop.db")

    with pytest.raises(StoreError, match=r"shop\.db: belongs to group 'shop', not to 'mail'.*--db"):
        opened(path, group="mail")


def test_a_store_of_another_cluster_is_refused(tmp_path: Path):
    path = made(tmp_path / "k" / "shop.db")

    with pytest.raises(StoreError, match=r"shop\.db: belongs to cluster 'c1', not to 'c2'.*--db"):
        opened(path, cluster="c2")


def test_a_store_that_was_refused_still_serves_its_own_group(tmp_path: Path):
    path = made(tmp_path / "k" / "shop.db")
    with pytest.raises(StoreError):
        opened(path, group="mail")

    with closing(opened(path)) as store:
        assert store.seen([MARK]) == {MARK}


def test_a_store_of_a_newer_version_is_refused_and_not_touched(tmp_path: Path):
    path = made(tmp_path / "k" / "shop.db")
    change(path, f"PRAGMA user_version = {schema.VERSION + 1}")
    before = path.read_bytes()

    with pytest.raises(StoreError, match=r"shop\.db: was written by a newer kworker.*upgrade"):
        opened(path)

    assert path.read_bytes() == before


def test_a_database_of_another_program_is_refused_and_not_touched(tmp_path: Path):
    path = tmp_path / "other.db"
    change(path, "CREATE TABLE notes (text)")
    before = path.read_bytes()

    with pytest.raises(StoreError, match=r"other\.db: is a database of another program.*--db"):
        opened(path)

    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_store(tmp_path: Path):
    (tmp_path / "shop.db").touch()

    with closing(opened(tmp_path / "shop.db")) as store:
        assert store.seen([MARK]) == set()


def test_the_version_is_the_number_of_migrations():
    assert len(schema.migrations().pending(Database(memory=True))) == schema.VERSION


# ------------------------------------------------------------- what can be wrong


def _text(folder: Path) -> Path:
    path = folder / "shop.db"
    path.write_text("not a database, but long enough to be looked at as one " * 20)
    return path


def _short_text(folder: Path) -> Path:
    path = folder / "shop.db"
    path.write_text("hello")
    return path


def _damaged_page(folder: Path) -> Path:
    path = made(folder / "shop.db")
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 2 // 4096 * 4096)
        file.write(b"\xa5" * 4096)
    return path


def _symlink(folder: Path) -> Path:
    made(folder / "real.db")
    (folder / "shop.db").symlink_to(folder / "real.db")
    return folder / "shop.db"


def _dangling_symlink(folder: Path) -> Path:
    (folder / "shop.db").symlink_to(folder / "nowhere.db")
    return folder / "shop.db"


def _symlinked_folder(folder: Path) -> Path:
    (folder / "real").mkdir()
    (folder / "link").symlink_to(folder / "real")
    return folder / "link" / "shop.db"


def _symlinked_lock(folder: Path) -> Path:
    (folder / "shop.db.lock").symlink_to(folder / "elsewhere")
    return folder / "shop.db"


def _world_writable_folder(folder: Path) -> Path:
    (folder / "open").mkdir()
    (folder / "open").chmod(0o777)
    return folder / "open" / "shop.db"


def _folder_that_is_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "shop.db"


def _below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "deeper" / "shop.db"


def _folder(folder: Path) -> Path:
    (folder / "shop.db").mkdir()
    return folder / "shop.db"


def _nowhere(folder: Path) -> Path:
    return Path("/proc/kworker/shop.db")


@pytest.mark.parametrize(
    ("make", "what", "way_out"),
    [
        (_text, "not a database", "--db"),
        (_short_text, "not a database", "--db"),
        (_damaged_page, "damaged", "move it aside"),
        (_symlink, "symbolic link", "--db"),
        (_dangling_symlink, "symbolic link", "--db"),
        (_symlinked_folder, "symbolic link", "--db"),
        (_symlinked_lock, "symbolic link", "remove it"),
        (_world_writable_folder, "anyone may write", "--db"),
        (_folder_that_is_a_file, "not a folder", "--db"),
        (_below_a_file, "Not a directory", "--db"),
        (_folder, "not a file", "--db"),
        (_nowhere, "No such file or directory", "--db"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_what_is_wrong_and_what_to_do(
    tmp_path: Path, make: Callable[[Path], Path], what: str, way_out: str
):
    path = make(tmp_path)

    with pytest.raises(StoreError) as raised:
        opened(path)

    text = str(raised.value)
    assert text.startswith(str(path))
    assert what in text
    assert way_out in text
    assert "\n" not in text
    assert raised.value.exit_code == 5


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that every user reaches, which pytest's own is not."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_a_folder_like_tmp_will_do(shared_folder: Path):
    shared_folder.chmod(0o1777)

    with closing(opened(made(shared_folder / "shop.db"))) as store:
        assert store.seen([MARK]) == {MARK}


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm", "-journal", ".lock"])
def test_what_somebody_else_has_put_into_such_a_folder_is_refused(
    shared_folder: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
):
    shared_folder.chmod(0o1777)
    path = made(shared_folder / "shop.db")
    theirs = path.with_name(path.name + suffix)
    theirs.touch()
    lstat = Path.lstat

    def given_away(file: Path) -> os.stat_result:
        about = lstat(file)
        return os.stat_result((*about[:4], NOBODY, *about[5:])) if file == theirs else about

    monkeypatch.setattr(Path, "lstat", given_away)  # only root could give it away in truth

    with pytest.raises(StoreError, match=rf"shop\.db: {theirs.name} is another user's.*--db"):
        opened(path)


@pytest.mark.parametrize("mode", [0o444, 0o000])
def test_a_file_that_this_user_may_not_write_is_refused(shared_folder: Path, mode: int):
    path = made(shared_folder / "shop.db")
    path.chmod(mode)

    with unprivileged(), pytest.raises(StoreError, match=r"shop\.db: cannot be written.*--db"):
        opened(path)


def test_a_folder_that_this_user_may_not_write_is_refused(shared_folder: Path):
    shared_folder.chmod(0o555)

    with unprivileged(), pytest.raises(StoreError, match=r"shop\.db: Permission denied.*--db"):
        opened(shared_folder / "shop.db")


def test_offsets_that_were_damaged_are_not_believed(tmp_path: Path):
    path = made(tmp_path / "shop.db")
    change(path, "UPDATE position SET ranges = '0-9,5'")

    with closing(opened(path)) as store:
        with pytest.raises(StoreError, match=r"shop\.db: damaged.*move it aside"):
            store.done("shop.charge", LOG)
        with pytest.raises(StoreError, match="damaged"):
            store.record(Turn(seen=[MARK._replace(id="b")], done={("shop.charge", LOG): Ranges()}))
        assert store.seen([MARK._replace(id="b")]) == set()


def test_a_handler_first_met_in_a_turn_that_failed_is_met_anew(tmp_path: Path):
    path = made(tmp_path / "shop.db")
    change(path, "UPDATE position SET ranges = '?'")
    mails, bills = MARK._replace(handler="shop.mail"), MARK._replace(handler="shop.bill")

    with closing(opened(path)) as store:
        with pytest.raises(StoreError):
            store.record(Turn(seen=[mails], done={("shop.charge", LOG): Ranges()}))
        store.record(Turn(seen=[bills]))

        assert store.seen([mails, bills]) == {bills}


def test_a_full_disk_takes_nothing_that_was_recorded_and_goes_on_when_there_is_room(
    tmp_path: Path,
):
    store = opened(tmp_path / "shop.db")
    store.record(Turn(seen=[MARK]))
    # SQLite's own limit gives the very error that a full disk gives.
    store._connection.execute("PRAGMA max_page_count = 1")  # type: ignore[attr-defined]
    many = [MARK._replace(id=str(uuid.uuid4())) for _ in range(3000)]

    assert not store.record(Turn(seen=many))

    assert store.seen([MARK, *many]) == {MARK}
    assert store.has_room(), "the disk itself has: it is tried again"
    store._connection.execute("PRAGMA max_page_count = 100000")  # type: ignore[attr-defined]
    assert store.record(Turn(seen=many))
    assert store.seen([MARK, *many]) == {MARK, *many}
    store.close()


@pytest.mark.parametrize(
    ("mount", "refused"),
    [
        ("/srv rw - nfs4 host:/srv rw", "nfs4 at /srv"),
        ("/srv/data rw - fuse.sshfs me@host: rw", "fuse.sshfs at /srv/data"),
        ("/srv/da rw - nfs4 host:/srv rw", None),
        ("/srv/data rw - ext4 /dev/sdb rw", None),
        ("/ rw - 9p root rw", None),
    ],
)
def test_a_file_on_another_machine_is_refused_by_its_file_system(mount: str, refused: str | None):
    mounts = f"1 0 8:1 / / rw - ext4 /dev/sda rw\n2 1 0:5 / {mount}\n"

    if refused is None:
        care.refuse_network(Path("/srv/data/shop.db"), mounts)
        return
    with pytest.raises(StoreError, match=refused) as told:
        care.refuse_network(Path("/srv/data/shop.db"), mounts)

    assert str(told.value).startswith("/srv/data/shop.db: ")


def test_a_file_that_was_taken_away_takes_no_more_records(tmp_path: Path):
    store = opened(tmp_path / "shop.db")
    (tmp_path / "shop.db").unlink()

    with pytest.raises(StoreError, match=r"shop\.db was removed, moved or replaced"):
        store.record(Turn(seen=[MARK]))


# --------------------------------------------------------------------- sharing


def test_a_turn_is_put_off_while_another_process_writes(tmp_path: Path):
    store = opened(tmp_path / "shop.db")
    another = Turnstile(tmp_path / "shop.db.lock")
    another.enter()

    assert not store.record(Turn(seen=[MARK]))
    assert not store.record(Turn(seen=[MARK]), patience=0.05)
    assert store.prune(1e12) == 0
    assert store.seen([MARK]) == set()

    another.close()
    assert store.record(Turn(seen=[MARK]), patience=5)
    assert store.seen([MARK]) == {MARK}
    store.close()


def test_a_turn_is_put_off_while_a_program_that_knows_no_turns_writes(tmp_path: Path):
    store = opened(tmp_path / "shop.db")
    program = sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
    program.execute("BEGIN IMMEDIATE")

    assert not store.record(Turn(seen=[MARK]))
    assert store.seen([MARK]) == set()

    program.close()
    assert store.record(Turn(seen=[MARK]))
    store.close()


def test_a_long_reader_holds_up_no_writer(tmp_path: Path):
    store = opened(made(tmp_path / "shop.db"))
    reader = sqlite3.connect(tmp_path / "shop.db", isolation_level=None)
    reader.execute("BEGIN")
    before = reader.execute("SELECT count(*) FROM seen").fetchone()

    for number in range(20):
        assert store.record(Turn(seen=[MARK._replace(id=f"b-{number}")]))

    assert reader.execute("SELECT count(*) FROM seen").fetchone() == before == (1,)
    reader.close()
    store.close()


def test_the_log_is_moved_into_the_database_before_it_grows_large(tmp_path: Path):
    store = opened(tmp_path / "shop.db")

    for _ in range(100):
        store.record(Turn(seen=[MARK._replace(id=str(uuid.uuid4())) for _ in range(500)]))

    assert (tmp_path / "shop.db-wal").stat().st_size < 24 * 2**20
    store.close()
    assert not (tmp_path / "shop.db-wal").exists()


# ------------------------------------------------------------------- the file


def test_files_and_folder_are_for_their_user_alone(tmp_path: Path):
    with closing(opened(tmp_path / "kworker" / "shop.db")) as store:
        store.record(Turn(seen=[MARK]))
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode)
            for path in (tmp_path / "kworker").iterdir()
        }

    assert stat.S_IMODE((tmp_path / "kworker").stat().st_mode) == 0o700
    assert modes == dict.fromkeys(("shop.db", "shop.db-wal", "shop.db-shm", "shop.db.lock"), 0o600)


def test_what_is_written_survives_a_loss_of_power(tmp_path: Path):
    with closing(opened(tmp_path / "shop.db")) as store:
        connection = store._connection  # type: ignore[attr-defined]

        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_a_name_that_means_something_to_sqlite_is_a_file_like_any_other(tmp_path: Path):
    made(tmp_path / ":memory:")

    with closing(opened(tmp_path / ":memory:")) as store:
        assert store.seen([MARK]) == {MARK}


def test_what_strangers_write_as_an_id_takes_bounded_room(tmp_path: Path):
    with closing(opened(tmp_path / "shop.db")) as store:
        store.record(Turn(seen=[MARK._replace(id="x" * 10**6), MARK._replace(id="ä" * 10**6)]))

    db = Database(tmp_path / "shop.db")
    assert [len(row["id"].encode()) <= 512 for row in db.query("SELECT id FROM seen")] == [True] * 2
    db.close()


def test_people_read_plain_tables(tmp_path: Path):
    with closing(opened(tmp_path / "shop.db", now=1_700_000_000.5)) as store:
        store.record(
            Turn(
                seen=[MARK._replace(replay=1)],
                done={("shop.charge", LOG): Ranges([(0, 100), (105, 106)])},
                topics={LOG.topic_id: "orders"},
                attempts={MARK._replace(hop=1): Attempt(3, "dead letter", 1_699_999_999.0)},
            )
        )

    db = Database(tmp_path / "shop.db")
    assert list(db.query("SELECT * FROM seen")) == [
        {
            "handler": "shop.charge", "topic": "orders", "id": "a-1", "replay": 1, "hop": 0,
            "recorded_at": "2023-11-14T22:13:20.500Z",
        }
    ]  # fmt: skip
    assert list(db.query("SELECT * FROM attempts")) == [
        {
            "handler": "shop.charge", "topic": "orders", "id": "a-1", "replay": 0, "hop": 1,
            "calls": 3, "decided": "dead letter", "due_at": None,
            "first_failed_at": "2023-11-14T22:13:19.000Z",
            "recorded_at": "2023-11-14T22:13:20.500Z",
        }
    ]  # fmt: skip
    assert list(db.query("SELECT * FROM positions")) == [
        {
            "handler": "shop.charge", "topic": "orders", "partition": 0, "ranges": "0-99,105",
            "topic_id": LOG.topic_id, "recorded_at": "2023-11-14T22:13:20.500Z",
        }
    ]  # fmt: skip
    db.close()


def test_a_topics_name_is_kept_where_a_turn_does_not_say_it(tmp_path: Path):
    with closing(opened(tmp_path / "shop.db")) as store:
        done = {("shop.charge", LOG): Ranges([(0, 1)])}
        store.record(Turn(done=done, topics={LOG.topic_id: "orders"}))
        store.record(Turn(done=done))

    db = Database(tmp_path / "shop.db")
    assert [row["topic"] for row in db.query("SELECT topic FROM positions")] == ["orders"]
    db.close()


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("shop", "shop.db"),
        ("shop-v1.2_x", "shop-v1.2_x.db"),
        ("..", "%2E..db"),
        (".hidden", "%2Ehidden.db"),
        ("../../etc/passwd", "%2E.%2F..%2Fetc%2Fpasswd.db"),
        ("a b~%ä\0", "a%20b%7E%25%C3%A4%00.db"),
    ],
)
def test_the_store_of_a_group_lies_in_one_folder_whatever_the_group_is_called(
    group: str, name: str
):
    assert default_path(group) == Path(".kworker") / name
