from __future__ import annotations

import pytest

from kworker.errors import StoreError
from kworker.stores import open_store, place

MOUNTS = """\
/dev/root / ext4 rw 0 0
server:/home {folder} nfs4 rw 0 0
/dev/sdb {folder}/local xfs rw 0 0
server:/x {folder}/with\\040space cifs rw 0 0
"""


@pytest.fixture
def mounts(tmp_path):
    path = tmp_path / "mounts"
    path.write_text(MOUNTS.format(folder=tmp_path))
    return path


@pytest.mark.parametrize(
    ("file", "kind", "network"),
    [
        ("shop.db", "nfs4", True),
        ("not/yet/there/shop.db", "nfs4", True),
        ("local/shop.db", "xfs", False),
        ("with space/shop.db", "cifs", True),
        ("/shop.db", "ext4", False),
    ],
)
def test_the_mount_nearest_above_a_file_says_what_it_lies_on(tmp_path, mounts, file, kind, network):
    (tmp_path / "local").mkdir()
    (tmp_path / "with space").mkdir()

    found = place.look(tmp_path / file, mounts)

    assert (found.kind, found.network) == (kind, network)
    assert found.free > 0


def test_where_the_system_does_not_tell_nothing_is_refused(tmp_path):
    found = place.look(tmp_path / "shop.db", tmp_path / "nothing")

    assert (found.kind, found.network) == (None, False)


def test_a_store_on_a_network_file_system_is_refused(tmp_path, mounts, monkeypatch):
    look = place.look
    monkeypatch.setattr(place, "look", lambda path: look(path, mounts))

    with pytest.raises(StoreError, match=r"network file system \(nfs4\).*--db"):
        open_store(tmp_path / "shop.db", group="shop", cluster="c")

    assert not (tmp_path / "shop.db").exists()
