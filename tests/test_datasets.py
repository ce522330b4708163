"""Data as people have it: each layout gives the right labels, groups and sources; contradictions are refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from muflow_cli.bench.datasets import DataArgument, Dataset, Wanted, assign, read_datasets, split_name
from muflow_cli.bench.families import CLOSED_DIFFUSION, GANS, OPEN_DIFFUSION, OTHER, family, read_families
from muflow_cli.errors import BadData, BadTable, NothingToDo
from muflow_cli.run_specs import InputSpec

SHARED = Path(__file__).parents[2] / "shared" / "data"


def grow(root: Path, *paths: str) -> Path:
    """A tree of real, tiny images."""
    for path in paths:
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (len(path), 0, 0)).save(file)
    return root


def read(*arguments: tuple[Wanted, object]) -> Dataset:
    return read_datasets([DataArgument(str(text), wanted) for wanted, text in arguments], InputSpec())


def table(dataset: Dataset, root: Path) -> list[tuple[str, str, str, str]]:
    return [(s.path.removeprefix(f"{root}/"), str(s.label), s.group, s.source) for s in dataset.samples]


def labels_and_groups(dataset: Dataset) -> list[tuple[str, str]]:
    return sorted({(str(sample.label), sample.group) for sample in dataset.samples})


def test_a_flat_folder_is_one_group_called_after_the_folder_or_the_given_name(tmp_path):
    root = grow(tmp_path / "ffhq_256", "b.png", "a.jpg")
    assert table(read((Wanted.REAL, root)), root) == [
        ("a.jpg", "real", "ffhq_256", "ffhq_256"),
        ("b.png", "real", "ffhq_256", "ffhq_256"),
    ]
    assert labels_and_groups(read((Wanted.FAKE, f"sg={root}"))) == [("fake", "sg")]


def test_a_tree_has_its_folders_as_groups_with_the_whole_path_as_name(tmp_path):
    root = grow(tmp_path / "fakes", "gan/stylegan2/1.png", "gan/progan/1.png", "sd/1.png")
    dataset = read((Wanted.FAKE, root))
    assert [sample.group for sample in dataset.samples] == ["gan/progan", "gan/stylegan2", "sd"]
    assert {sample.source for sample in dataset.samples} == {"fakes"}
    named = read((Wanted.FAKE, f"mine={root}"))
    assert [sample.group for sample in named.samples] == ["mine/gan/progan", "mine/gan/stylegan2", "mine/sd"]


@pytest.mark.parametrize(("real", "fake"), [("0_real", "1_fake"), ("nature", "ai"), ("real", "fake"), ("Real", "FAKE")])
def test_labelled_folders_label_their_images_at_any_depth(tmp_path, real, fake):
    root = grow(
        tmp_path, f"midjourney/{real}/1.png", f"midjourney/{fake}/1.png", f"{fake}/sdxl/1.png", f"{real}/web/1.png"
    )
    assert labels_and_groups(read((Wanted.BOTH, root))) == [
        *(("fake", "midjourney"), ("fake", "sdxl")),
        *(("real", "midjourney"), ("real", "web")),
    ]
    assert labels_and_groups(read((Wanted.REAL, root))) == [("real", "midjourney"), ("real", "web")]
    assert {sample.source for sample in read((Wanted.REAL, root)).samples} == {"midjourney", "web"}


def test_a_common_word_is_a_label_only_beside_its_counterpart(tmp_path):
    root = grow(tmp_path, "nature/1.png", "city/1.png", "ai/x/real/1.png")
    assert labels_and_groups(read((Wanted.REAL, grow(tmp_path / "photos", "nature/1.png", "city/1.png")))) == [
        *(("real", "city"), ("real", "nature")),
    ]
    # Here nature and ai stand side by side, while the folder called real stands alone.
    assert labels_and_groups(read((Wanted.FAKE, root / "ai"))) == [("fake", "x/real")]


def test_a_tree_without_labels_needs_real_or_fake(tmp_path):
    with pytest.raises(BadData, match=r"no folder above .* says whether it is real or fake: .*--real or --fake"):
        read((Wanted.BOTH, grow(tmp_path, "some/1.png")))


def test_ffhq_as_downloaded_is_one_group_with_each_photograph_once(tmp_path):
    root = grow(
        tmp_path / "ffhq-dataset",
        "images1024x1024/00000/00000.png",
        "images1024x1024/69000/69999.png",
        "thumbnails128x128/00000/00000.png",
        "in-the-wild-images/00000/00000.png",
    )
    dataset = read((Wanted.REAL, root))
    assert [row[2] for row in table(dataset, root)] == ["ffhq-dataset", "ffhq-dataset"]
    assert {Path(folder).parent.name: number for folder, number in dataset.left_out.items()} == {
        "thumbnails128x128": 1,
        "in-the-wild-images": 1,
    }
    assert labels_and_groups(read((Wanted.REAL, root / "images1024x1024"))) == [("real", "ffhq")]
    # Alone, the thumbnails are not second copies.
    alone = grow(tmp_path / "alone", "thumbnails128x128/00000/00000.png")
    assert labels_and_groups(read((Wanted.REAL, alone))) == [("real", "thumbnails128x128")]
    assert labels_and_groups(read((Wanted.REAL, root / "thumbnails128x128"))) == [("real", "thumbnails128x128")]


def test_celeba_hq_as_downloaded_is_one_group(tmp_path):
    root = grow(tmp_path / "celeba_hq", "train/female/1.jpg", "train/male/2.jpg", "val/female/3.jpg", "val/male/4.jpg")
    assert len(read((Wanted.REAL, root)).samples) == 4
    assert labels_and_groups(read((Wanted.REAL, root))) == [("real", "celeba_hq")]


def test_celebamask_hq_is_read_without_its_masks(tmp_path):
    root = grow(
        tmp_path / "CelebAMask-HQ",
        "CelebA-HQ-img/0.jpg",
        "CelebAMask-HQ-mask-anno/0/00000_hair.png",
        "CelebAMask-HQ-mask-anno/14/29999_skin.png",
        "CelebAMaskHQ-mask/0.png",
    )
    dataset = read((Wanted.REAL, root))
    assert table(dataset, root) == [("CelebA-HQ-img/0.jpg", "real", "celebahq", "celebahq")]
    assert sum(dataset.left_out.values()) == 3


def test_wild_groups_are_its_generators_and_have_the_families_of_the_paper(tmp_path):
    root = grow(
        tmp_path / "WILD",
        *(f"Closed Set/{name}/1.png" for name in ("Flux.1.1 Pro", "Flux.1", "Stable DIffusion 3.5")),
        *(f"Open Set/{name}/1.png" for name in ("StyleGAN3", "Nvidia Sana PAG")),
    )
    assert {sample.group: family(sample.group) for sample in read((Wanted.FAKE, root)).samples} == {
        "Flux.1": OPEN_DIFFUSION,
        "Flux.1.1 Pro": CLOSED_DIFFUSION,
        "Stable DIffusion 3.5": OPEN_DIFFUSION,
        "StyleGAN3": GANS,
        "Nvidia Sana PAG": CLOSED_DIFFUSION,
    }


def test_several_downloads_in_one_tree_are_each_recognised(tmp_path):
    root = grow(
        tmp_path,
        "real/ffhq/images1024x1024/01000/01000.png",
        "real/ffhq/thumbnails128x128/01000/01000.png",
        "real/celeba_hq/val/male/1.jpg",
        "fake/WILD/Open Set/DeepAI/1.png",
    )
    assert labels_and_groups(read((Wanted.BOTH, root))) == [
        *(("fake", "WILD/DeepAI"), ("real", "celeba_hq"), ("real", "ffhq")),
    ]


@given(st.sets(st.lists(st.sampled_from(["real", "fake", "a", "train", "male", "00000"]), max_size=4).map(tuple)))
def test_every_folder_is_assigned_whatever_the_order_and_no_name_is_invented(folders):
    assignments = assign(sorted(folders))
    assert assignments == assign(sorted(folders, reverse=True))
    assert set(assignments) == folders
    for folder, assignment in assignments.items():
        assert assignment is not None
        assert set(assignment.group) <= set(folder)


def test_images_inside_an_archive_have_its_folders_as_groups(tmp_path):
    grow(tmp_path, "in/stylegan2/1.png", "in/progan/wow!.png")
    with zipfile.ZipFile(tmp_path / "fakes.zip", "w") as archive:
        for file in sorted((tmp_path / "in").rglob("*.png")):
            archive.write(file, file.relative_to(tmp_path / "in"))
    assert labels_and_groups(read((Wanted.FAKE, tmp_path / "fakes.zip"))) == [("fake", "progan"), ("fake", "stylegan2")]
    assert labels_and_groups(read((Wanted.FAKE, tmp_path / "in"))) == [("fake", "progan"), ("fake", "stylegan2")]


def test_a_folder_with_an_equals_sign_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    grow(tmp_path / "q=75", "1.png")
    assert split_name("q=75") == (None, "q=75")
    assert split_name("name=q=75") == ("name", "q=75")
    assert split_name("=x") == (None, "=x")


def test_two_arguments_that_name_the_same_group_are_refused_until_told_apart(tmp_path):
    first, second = grow(tmp_path / "a" / "train", "1.png"), grow(tmp_path / "b" / "train", "1.png")
    with pytest.raises(BadData, match=r"two arguments hold a real group 'train'.*NAME=DIR"):
        read((Wanted.REAL, first), (Wanted.REAL, second))
    assert labels_and_groups(read((Wanted.REAL, f"a={first}"), (Wanted.REAL, second))) == [
        ("real", "a"),
        ("real", "train"),
    ]
    # A generator and a source may share a name.
    assert len(read((Wanted.REAL, first), (Wanted.FAKE, second)).samples) == 2


def test_one_path_cannot_be_real_and_fake(tmp_path):
    root = grow(tmp_path / "x", "1.png")
    with pytest.raises(BadData, match=r"1\.png is given as real and as fake"):
        read((Wanted.REAL, root), (Wanted.FAKE, root))


def test_nothing_found_says_what_was_looked_for(tmp_path):
    grow(tmp_path, "0_real/1.png")
    with pytest.raises(NothingToDo, match="holds no fake images"):
        read((Wanted.FAKE, tmp_path))
    with pytest.raises(NothingToDo, match="no such file or folder"):
        read((Wanted.FAKE, tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NothingToDo, match="holds no real images"):
        read((Wanted.REAL, tmp_path / "empty"))


def manifest(tmp_path: Path, *lines: str) -> Path:
    grow(tmp_path, "a.png", "sub/b.png")
    file = tmp_path / "data.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def test_a_manifest_gives_each_image_its_label_group_and_source(tmp_path):
    file = manifest(tmp_path, "\ufeffpath,Label,group,source", "sub/b.png,FAKE,sdxl,laion", "", "a.png,0,ffhq,")
    dataset = read((Wanted.BOTH, file))
    assert table(dataset, tmp_path) == [("sub/b.png", "fake", "sdxl", "laion"), ("a.png", "real", "ffhq", "ffhq")]
    assert table(read((Wanted.REAL, f"x={file}")), tmp_path) == [("a.png", "real", "x/ffhq", "x/ffhq")]


@pytest.mark.parametrize(
    ("lines", "line", "column", "problem"),
    [
        (["path,label"], 1, "group", "is missing in the header: add it"),
        ([], 1, "path", "is missing in the header: add it"),
        (["path,label,group,sorce", "a.png,real,x,y"], 1, "sorce", "is unknown or given twice: use each of"),
        (["path,label,group,path", "a.png,real,x,y"], 1, "path", "is unknown or given twice: use each of"),
        (["path,label,group", "a.png,real,x", "a.png,maybe,x"], 3, "label", "'maybe' is not a label: use real, fake"),
        (["path,label,group", "a.png,real,"], 2, "group", "the cell is empty: fill it in"),
        (["path,label,group", "a.png"], 2, "label", "the cell is empty: fill it in"),
        (["path,label,group", "a.png,real,x,y"], 2, "group", "there are 4 cells for 3 columns: quote"),
        (["path,label,group", "c.png,real,x"], 2, "path", "there is no file"),
        (["path,label,group", "a.png,real,x", "a.png,fake,x"], 3, "path", "a.png is already on line 2: remove"),
        (["path,label,group", 'a.png,"real,x'], 1, "path,label,group", "cannot be read as CSV"),
    ],
)
def test_errors_in_a_manifest_name_line_and_column(tmp_path, lines, line, column, problem):
    with pytest.raises(BadTable) as caught:
        read((Wanted.BOTH, manifest(tmp_path, *lines)))
    assert f"data.csv, line {line}, column {column!r}, " in str(caught.value)
    assert problem in str(caught.value)
    assert str(caught.value).count(": ") == 1


def test_a_manifest_that_is_not_there_is_named(tmp_path):
    with pytest.raises(BadTable, match=r"gone\.csv.*No such file"):
        read((Wanted.BOTH, tmp_path / "gone.csv"))


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("stylegan2_300", GANS),
        ("StyleGAN", GANS),
        ("STARGAN", GANS),
        ("progan/airplane", GANS),
        ("sd21_768", OPEN_DIFFUSION),
        ("sdxl_tiles", OPEN_DIFFUSION),
        ("Stable Diffusion Attend and Excite", OPEN_DIFFUSION),
        ("flux.1-dev", OPEN_DIFFUSION),
        ("flux_1.1_pro", CLOSED_DIFFUSION),
        ("Dall-E 3", CLOSED_DIFFUSION),
        ("Midjourney/imagenet_midjourney/train", CLOSED_DIFFUSION),
        ("Dall-E", OTHER),
        ("administration", OTHER),
        ("", OTHER),
    ],
)
def test_families_of_generators_under_their_usual_names(group, expected):
    assert family(group) == expected


def test_a_file_adds_families_and_overrules_the_table(tmp_path):
    file = tmp_path / "families.csv"
    file.write_text("generator,family\nMy Net 2,flows\nStyleGAN2,old GANs\n", encoding="utf-8")
    families = read_families(str(file))
    assert family("my-net-2_256", families) == "flows"
    assert family("stylegan2", families) == "old GANs"
    assert family("stylegan3", families) == GANS
    file.write_text("generator,family\nStyleGAN2,\n", encoding="utf-8")
    with pytest.raises(BadTable, match="line 2, column 'family', the cell is empty: fill it in"):
        read_families(str(file))


@pytest.mark.skipif(not SHARED.exists(), reason="the development images are not there")
def test_the_development_images_have_their_folders_as_groups():
    dataset = read((Wanted.REAL, SHARED / "real"), (Wanted.FAKE, SHARED / "fake"))
    assert not dataset.unreadable
    assert labels_and_groups(dataset) == [
        (label, folder.name) for label in ("fake", "real") for folder in sorted((SHARED / label).iterdir())
    ]
    families = {group: family(group) for label, group in labels_and_groups(dataset) if label == "fake"}
    assert (
        families
        | {
            **dict.fromkeys(("stylegan1_256", "stylegan2_1024", "stylegan2_300"), GANS),
            **dict.fromkeys(("sd21_768", "sdxl_tiles"), OPEN_DIFFUSION),
        }
        == families
    )
