"""Promises of fit/split.py: whole groups, by content, in the shares of the specification."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from muflow_cli.fit.split import split
from muflow_cli.images.near import near_duplicate_groups, perceptual_hash
from muflow_cli.specs import TrainSpec

digests = st.lists(st.integers(0, 2**256 - 1).map(lambda n: f"{n:064x}"), min_size=1, max_size=120, unique=True)


@given(digests, st.data())
def test_every_image_is_in_one_part_and_every_group_on_one_side(names: list[str], data: st.DataObject) -> None:
    groups = np.array(data.draw(st.lists(st.integers(0, 30), min_size=len(names), max_size=len(names))))
    parts = split(names, groups, TrainSpec())
    dealt = [*parts.train, *parts.validation, *parts.calibration]
    assert sorted(dealt) == list(range(len(names)))
    sides = [{int(groups[i]) for i in part} for part in (parts.train, parts.validation, parts.calibration)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]


@given(digests, st.randoms())
def test_the_split_knows_content_and_not_order(names: list[str], random: object) -> None:
    shuffled = names.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    alone = np.arange(len(names))
    first, second = split(names, alone, TrainSpec()), split(shuffled, alone, TrainSpec())
    assert [names[i] for i in first.train] == [shuffled[i] for i in second.train]
    assert [names[i] for i in first.calibration] == [shuffled[i] for i in second.calibration]


def test_the_shares_are_kept() -> None:
    names = [f"{i * 7919 % 1000:064x}" for i in range(1000)]
    parts = split(names, np.arange(1000), TrainSpec(validation_share=0.2, calibration_share=0.3))
    assert (len(parts.train), len(parts.validation), len(parts.calibration)) == (500, 200, 300)


def test_linked_images_form_one_group() -> None:
    base = 0x0123456789ABCDEF
    hashes = [base, base ^ 0b1111, base ^ 0b11111111, 2**64 - 1 - base]
    groups = near_duplicate_groups(hashes, distance=4).tolist()
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_a_re_encoded_or_resized_copy_is_a_near_duplicate_and_another_image_is_not(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    coarse = generator.integers(0, 256, size=(2, 8, 8, 3), dtype=np.uint8)
    image, other = (Image.fromarray(c).resize((72, 72), Image.Resampling.BICUBIC) for c in coarse)
    image.save(tmp_path / "copy.jpg", quality=70)

    copies = [image, Image.open(tmp_path / "copy.jpg"), image.resize((64, 64)).resize((72, 72)), other]
    groups = near_duplicate_groups([perceptual_hash(np.asarray(p.convert("RGB"))) for p in copies]).tolist()
    assert groups[0] == groups[1] == groups[2] != groups[3]


def test_the_same_photographs_in_two_sizes_are_found(shared: Path) -> None:
    import csv

    with (shared / "data" / "MANIFEST.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["source"] in ("ffhq_256", "ffhq_1024")]
    large = [row for row in rows if row["source"] == "ffhq_1024"][:20]
    wanted = {row["near_dup_group"] for row in large}
    small = [row for row in rows if row["source"] == "ffhq_256" and row["near_dup_group"] in wanted]
    if not small:
        pytest.skip("the manifest lists no images in both sizes")

    def hash_of(row: dict[str, str]) -> int:
        image = Image.open(shared / "data" / row["path"]).convert("RGB").resize((256, 256))
        return perceptual_hash(np.asarray(image))

    both = [*large, *small]
    groups = near_duplicate_groups([hash_of(row) for row in both]).tolist()
    by_name: dict[str, set[int]] = {}
    for row, group in zip(both, groups, strict=True):
        by_name.setdefault(row["near_dup_group"], set()).add(group)
    together = sum(
        len(members) == 1 for name, members in by_name.items() if name in {r["near_dup_group"] for r in small}
    )
    assert together >= 0.95 * len({r["near_dup_group"] for r in small})


def test_more_images_than_a_block_are_grouped_as_by_looking_at_every_pair() -> None:
    generator = np.random.default_rng(4)
    alone = generator.integers(0, 2**63, 4500, dtype=np.uint64)
    copies = alone[::10] ^ (np.uint64(1) << generator.integers(0, 60, 450).astype(np.uint64))
    of_copies = copies[::3] ^ np.uint64(0b111)
    hashes = np.concatenate([alone, copies, of_copies])
    groups = near_duplicate_groups(hashes.tolist())
    near = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= 4
    rows, columns = np.nonzero(near)
    assert (groups[rows] == groups[columns]).all()
    assert len(set(groups.tolist())) == 4500  # nothing else is linked: every original has a group of its own


def test_a_film_of_near_frames_is_one_group_and_takes_little_memory() -> None:
    still = 0x0123456789ABCDEF
    frames = [still ^ (1 << (i % 60)) ^ (1 << (i // 60 % 60)) for i in range(3600)]
    tracemalloc.start()
    groups = near_duplicate_groups(frames)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert set(groups.tolist()) == {groups[0]}
    assert peak < 300 * 2**20
