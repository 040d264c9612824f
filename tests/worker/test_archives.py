"""Zip archives, honest and hostile."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from worker.archives import Limits, Member, NotAnArchive, StoreFailed, members


def zipped(*files: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> io.BytesIO:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, data in files:
            archive.writestr(name, data)
    stream.seek(0)
    return stream


def names(found: list[Member]) -> list[str]:
    return [member.name for member in found]


class TestMembers:
    def test_come_in_order_with_their_bytes(self) -> None:
        found = list(members(zipped(("b.png", b"B"), ("a/a.txt", b"A"))))
        assert [(m.name, m.data) for m in found] == [("b.png", b"B"), ("a/a.txt", b"A")]

    def test_folders_and_desktop_litter_are_passed_over(self) -> None:
        archive = zipped(("d/", b""), ("__MACOSX/._a.png", b"x"), ("d/.DS_Store", b"x"), ("a.png", b"x"))
        assert names(list(members(archive))) == ["a.png"]

    def test_names_are_only_names(self) -> None:
        archive = zipped(("../../etc/passwd", b"x"), ("/absolute", b"y"))
        assert [m.data for m in members(archive)] == [b"x", b"y"]

    def test_a_name_in_utf_8_that_does_not_say_so_is_read_as_it_was_meant(self) -> None:
        data = zipped(("XXber.png", b"x")).getvalue().replace(b"XX", "ü".encode())
        assert names(list(members(io.BytesIO(data)))) == ["über.png"]


class TestRefusals:
    def test_what_is_not_a_zip_says_what_to_do(self) -> None:
        with pytest.raises(NotAnArchive, match="not a zip archive"):
            list(members(io.BytesIO(b"PK but not really")))

    def test_one_that_was_cut_off_is_called_that(self) -> None:
        whole = zipped(("a.png", bytes(1000))).getvalue()
        with pytest.raises(NotAnArchive, match="cut off"):
            list(members(io.BytesIO(whole[:-40])))

    def test_too_many_entries(self) -> None:
        with pytest.raises(NotAnArchive, match="at most 2"):
            list(members(zipped(("a", b""), ("b", b""), ("c", b"")), Limits(entries=2)))

    def test_a_table_of_contents_of_any_length_is_not_read_into_memory(self) -> None:
        archive = zipped(*((f"{index:0200}.png", b"") for index in range(2000)))
        with pytest.raises(NotAnArchive, match="table of contents is too long"):
            list(members(archive, Limits(entries=2)))

    def test_a_member_that_unpacks_too_large_is_refused_and_the_next_one_taken(self) -> None:
        archive = zipped(("big", bytes(3 * 1024**2)), ("small", b"x"), compression=zipfile.ZIP_STORED)
        found = list(members(archive, Limits(entry_bytes=2 * 1024**2)))
        assert found[0].data is None
        assert found[0].refused == "larger than 2 MB unpacked (PATINA_ARCHIVE_ENTRY_BYTES)"
        assert found[1].data == b"x"

    def test_a_bomb_is_refused_by_its_ratio(self) -> None:
        (bomb,) = members(zipped(("bomb", bytes(50 * 1024**2))))
        assert str(bomb.refused).startswith("packed suspiciously tightly")

    def test_many_small_bombs_are_refused_by_their_ratio_together(self) -> None:
        archive = zipped(*((f"{n}", bytes(1024**2)) for n in range(70)))
        refused = [member.refused for member in members(archive)]
        assert refused[:60] == [None] * 60
        assert "PATINA_ARCHIVE_RATIO" in str(refused[-1])

    def test_names_that_nobody_wants_are_not_unpacked(self) -> None:
        archive = zipped(("a.exe", bytes(3 * 1024**2)), ("a.png", b"x"), compression=zipfile.ZIP_STORED)
        limits = Limits(total_bytes=1024**2)
        found = list(members(archive, limits, lambda name: "no" if name.endswith(".exe") else None))
        assert [(m.data, m.refused) for m in found] == [(None, "no"), (b"x", None)]

    def test_the_total_is_counted_over_members(self) -> None:
        files = [(f"{n}", bytes(1024**2 - 1)) for n in range(4)]
        found = list(members(zipped(*files, compression=zipfile.ZIP_STORED), Limits(total_bytes=2 * 1024**2)))
        assert [m.refused is None for m in found] == [True, True, False, False]

    @pytest.mark.parametrize(("most_bytes", "said"), [(500, "500 bytes"), (1536, "1.5 KB"), (4 * 1024**2, "4 MB")])
    def test_a_limit_is_told_in_a_unit_that_it_fills(self, most_bytes: int, said: str) -> None:
        archive = zipped(*((f"{n}", bytes(400 * 1024)) for n in range(20)), compression=zipfile.ZIP_STORED)
        (*_, last) = members(archive, Limits(total_bytes=most_bytes))
        assert last.refused == f"the upload unpacks to more than {said} (PATINA_ARCHIVE_TOTAL_BYTES)"

    def test_sizes_the_headers_lie_about_are_not_believed(self) -> None:
        data = zipped(("liar", bytes(3 * 1024**2))).getvalue()
        small = data.replace((3 * 1024**2).to_bytes(4, "little"), (10).to_bytes(4, "little"))
        assert small != data
        (liar,) = members(io.BytesIO(small), Limits(entry_bytes=2 * 1024**2))
        assert liar.data is None

    def test_symlinks(self) -> None:
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            link = zipfile.ZipInfo("link.png")
            link.external_attr = (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, "/etc/passwd")
        (member,) = members(stream)
        assert member.refused == "a link or device, not a file"

    def test_encrypted_members(self) -> None:
        data = bytearray(zipped(("secret.png", b"x")).getvalue())
        central = data.rindex(b"PK\x01\x02")
        data[central + 8] |= 1
        data[6] |= 1
        (member,) = members(io.BytesIO(bytes(data)))
        assert member.refused is not None
        assert member.refused.startswith("encrypted")

    def test_archives_inside_archives(self) -> None:
        (member,) = members(zipped(("inner.ZIP", zipped(("a", b"")).getvalue())))
        assert member.refused is not None
        assert "unpack it first" in member.refused

    def test_a_name_that_comes_twice_is_taken_once(self) -> None:
        with pytest.warns(UserWarning, match="Duplicate"):
            archive = zipped(("a", b"1"), ("a", b"2"))
        assert [m.data for m in members(archive)] == [b"1", None]

    def test_a_damaged_member_does_not_spoil_the_others(self) -> None:
        data = bytearray(zipped(("a", b"A" * 50), ("b", b"B"), compression=zipfile.ZIP_STORED).getvalue())
        data[data.index(b"A" * 50)] ^= 1
        found = list(members(io.BytesIO(bytes(data))))
        assert [(m.data, m.refused) for m in found] == [(None, "damaged inside the archive"), (b"B", None)]

    def test_an_entry_without_a_name_is_a_file_like_others(self) -> None:
        nameless = zipped(("a.png", b"good"))
        with zipfile.ZipFile(nameless, "a") as archive, archive.open(zipfile.ZipInfo(""), "w") as entry:
            entry.write(b"x")
        assert [(m.name, m.data) for m in members(nameless)] == [("a.png", b"good"), ("", b"x")]

    @pytest.mark.parametrize("place", [2**62, 2**63 - 1, 2**63, 2**64 - 1])
    def test_a_member_that_is_said_to_lie_beyond_any_file_is_damaged(self, place: int, tmp_path: Path) -> None:
        lying = tmp_path / "lying.zip"
        lying.write_bytes(_moved(zipped(("a.png", b"x"), ("b.png", b"good")).getvalue(), place))
        with lying.open("rb") as archive:
            assert [(m.name, m.data) for m in members(archive)] == [("a.png", None), ("b.png", b"good")]

    def test_bytes_nobody_can_read_from_the_store_are_not_the_archives_fault(self) -> None:
        class Gone(io.BytesIO):
            def read(self, count: int | None = -1) -> bytes:
                raise OSError("the store does not answer")

        with pytest.raises(StoreFailed):
            list(members(Gone(zipped(("a.png", b"x")).getvalue())))


def _moved(archive: bytes, place: int) -> bytes:
    """The archive, with a first member that its table of contents says begins at ``place``."""
    data = bytearray(archive)
    entry, end = data.find(b"PK\x01\x02"), data.rfind(b"PK\x05\x06")
    extra = struct.pack("<HHQ", 1, 8, place)
    (name_bytes,) = struct.unpack_from("<H", data, entry + 28)
    (table_bytes,) = struct.unpack_from("<L", data, end + 12)
    struct.pack_into("<L", data, end + 12, table_bytes + len(extra))
    struct.pack_into("<H", data, entry + 30, len(extra))
    struct.pack_into("<L", data, entry + 42, 0xFFFFFFFF)
    data[entry + 46 + name_bytes : entry + 46 + name_bytes] = extra
    return bytes(data)
