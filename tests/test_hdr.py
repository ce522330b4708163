"""HDR video becomes SDR by published formulas, and its results say so."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from clip_samples import av
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from muflow_cli.calibration.strata import ranges_of
from muflow_cli.images.clips import LoadedClip
from muflow_cli.images.hdr import (
    BT709,
    BT2020,
    P3,
    PEAK,
    WHITE,
    Transfer,
    hlg_to_scene,
    light_to_pq,
    pq_to_light,
    srgb_codes,
    to_bt709,
    to_sdr,
    toned,
)
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import LoadSpec, load_with_clips
from muflow_cli.output.clip_page import clip_of_page
from muflow_cli.output.encode import to_object
from muflow_cli.records import Facts, Unreadable
from muflow_cli.run_specs import ClipSpec, InputSpec
from muflow_cli.specs import ViewSpec

NUMBERS = {Transfer.PQ: 16, Transfer.HLG: 18}  # of H.273
SIDE = 64


@pytest.mark.parametrize(
    ("code", "light"), [(0, 0), (0.38, 26), (0.5081, 100), (0.58, 203), (0.7518, 1000), (0.9026, 4000), (1, 10_000)]
)
def test_pq_has_the_light_that_st_2084_and_bt_2408_name(code: float, light: float) -> None:
    assert pq_to_light(np.array(code)) == pytest.approx(light, rel=0.02)


@given(st.floats(0.01, 10_000))
def test_the_two_directions_of_pq_agree(light: float) -> None:
    assert pq_to_light(light_to_pq(np.array(light))) == pytest.approx(light, rel=1e-6)


@pytest.mark.parametrize(("code", "scene"), [(0, 0), (0.25, 1 / 48), (0.5, 1 / 12), (1, 1)])
def test_hlg_has_the_light_of_the_scene_that_bt_2100_names(code: float, scene: float) -> None:
    assert hlg_to_scene(np.array(code)) == pytest.approx(scene, abs=1e-6)


@pytest.mark.parametrize(("hlg", "pq", "light"), [(0.38, 0.38, 26), (0.75, 0.58, 203), (1, 0.752, 1000)])
def test_hlg_and_pq_show_the_references_of_bt_2408_alike(hlg: float, pq: float, light: float) -> None:
    grey = srgb_codes(toned(np.array(light)) / WHITE)
    for transfer, code in ((Transfer.HLG, hlg), (Transfer.PQ, pq)):
        shown = to_sdr(np.full((1, 1, 3), round(65535 * code), np.uint16), transfer)
        assert abs(int(shown[0, 0, 0]) - int(grey)) <= 1


def test_the_matrix_from_bt_2020_is_that_of_bt_2087() -> None:
    published = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
    np.testing.assert_allclose(to_bt709(BT2020), published, atol=6e-5)
    np.testing.assert_allclose(to_bt709(BT709), np.eye(3), atol=1e-12)
    np.testing.assert_array_equal(to_bt709(2), to_bt709(BT2020))


def test_the_tone_curve_keeps_the_dark_and_brings_the_peak_to_white() -> None:
    light = np.linspace(0, 2 * PEAK, 5000)
    result = toned(light)
    assert np.all(np.diff(result) >= -1e-9)
    np.testing.assert_allclose(result[light < 85], light[light < 85], atol=1e-6)
    assert np.all(result <= light + 1e-6)
    np.testing.assert_allclose(result[light >= PEAK], WHITE)
    assert 150 < toned(np.array(WHITE)) < 170  # a white sheet stays brighter than skin and darker than a lamp


@pytest.mark.parametrize("transfer", Transfer)
@pytest.mark.parametrize("primaries", [BT2020, P3])
def test_grey_stays_grey_from_black_to_white_and_never_gets_darker(transfer: Transfer, primaries: int) -> None:
    levels = np.rint(np.linspace(0, 65_535, 4096)).astype(np.uint16)  # 12 bits, the most that HDR is coded with
    grey = np.repeat(levels[None, :, None], 3, axis=2)
    shown = to_sdr(grey, transfer, primaries).astype(int)
    assert (shown.min(), shown.max()) == (0, 255)
    assert np.all(np.diff(shown[0], axis=0) >= 0)
    assert np.ptp(shown, axis=2).max() <= 1
    assert (np.ptp(shown, axis=2) > 0).mean() < 0.001


def test_colours_that_a_photograph_has_come_out_as_they_were() -> None:
    linear = np.random.default_rng(0).uniform(0, 0.35, (40, 40, 3))
    light = WHITE * linear @ np.linalg.inv(to_bt709(BT2020)).T
    codes = np.rint(65535 * light_to_pq(light)).astype(np.uint16)
    assert np.abs(to_sdr(codes, Transfer.PQ).astype(int) - srgb_codes(linear)).max() <= 1


def test_frames_of_any_size_are_converted_whole_and_alike() -> None:
    codes = np.random.default_rng(1).integers(0, 2**16, (401, 333, 3), dtype=np.uint16)
    for transfer in Transfer:
        whole = to_sdr(codes, transfer)
        assert whole.shape == codes.shape
        np.testing.assert_array_equal(whole[-3:], to_sdr(codes[-3:], transfer))


def hdr_clip(path: Path, codes: NDArray[np.uint16], transfer: int, matrix: int = BT2020) -> Path:
    """A clip of two equal frames in 10 bits, with R'G'B' of these code values."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx265", rate=10)
        stream.height, stream.width, _ = codes.shape
        stream.pix_fmt = "yuv420p10le"
        quiet = "log-level=none:pools=none:frame-threads=1"
        stream.options = {"preset": "ultrafast", "crf": "4", "x265-params": quiet}
        stream.codec_context.thread_count = 1
        stream.codec_context.color_trc, stream.codec_context.colorspace = transfer, matrix
        stream.codec_context.color_primaries = BT2020
        for number in range(2):
            frame = av.VideoFrame.from_ndarray(codes, "rgb48le").reformat(format="yuv420p10le", dst_colorspace=BT2020)
            frame.pts, frame.time_base = number, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def loaded(path: Path) -> LoadedClip | Unreadable:
    inputs = InputSpec(clips=ClipSpec(frames=2))
    spec = LoadSpec(views={"main": ViewSpec(size=SIDE)}, inputs=inputs, workers=1, ahead=2)
    (item,) = load_with_clips([Input(str(path))], spec)
    assert isinstance(item, LoadedClip | Unreadable)
    return item


def steps(levels: list[int]) -> NDArray[np.uint16]:
    """Frames with a bar of each grey."""
    row = np.repeat(np.array(levels, np.uint16), SIDE // len(levels))
    return np.ascontiguousarray(np.broadcast_to(row[None, :, None], (SIDE, SIDE, 3)))


@pytest.mark.parametrize("transfer", Transfer)
def test_a_clip_in_hdr_is_converted_and_its_facts_say_so(tmp_path: Path, transfer: Transfer) -> None:
    codes = steps([0, 25_000, 38_000, 65_535])
    clip = loaded(hdr_clip(tmp_path / "hdr.mp4", codes, NUMBERS[transfer]))
    assert isinstance(clip, LoadedClip), clip
    assert clip.clip.converted_from == transfer
    assert clip.facts.format == f"HEVC {transfer}"
    facts = json.loads(json.dumps(to_object(clip.clip, "the clip")))
    page = clip_of_page({"facts": facts, "frames": [], "worst": [], "judged_by": None, "tracks": []}, [])
    assert facts["converted_from"] == page["converted_from"] == transfer
    middles = np.s_[SIDE // 2, 8::16]
    for frame in clip.frames:
        assert frame.facts.format == clip.facts.format
        seen = frame.views["main"][0][middles].astype(int)
        assert np.abs(seen - to_sdr(codes, transfer)[middles]).max() <= 3


def test_a_clip_in_sdr_is_not_converted(tmp_path: Path) -> None:
    clip = loaded(hdr_clip(tmp_path / "sdr.mp4", steps([0, 20_000, 40_000, 65_535]), transfer=1))
    assert isinstance(clip, LoadedClip)
    assert (clip.clip.converted_from, clip.facts.format) == (None, "HEVC")
    assert "converted_from" not in to_object(clip.clip, "the clip")
    seen = clip.frames[0].views["main"][0][SIDE // 2, 8::16, 0].astype(int)
    assert np.abs(seen - [0, 78, 156, 255]).max() <= 3


def test_colours_that_the_decoder_cannot_convert_are_refused(tmp_path: Path) -> None:
    record = loaded(hdr_clip(tmp_path / "ictcp.mp4", steps([0, 65_535]), transfer=16, matrix=14))
    assert isinstance(record, Unreadable)
    assert record.code == "hdr"
    assert "ICtCp" in record.message


def test_dolby_vision_in_colours_of_its_own_is_refused(tmp_path: Path) -> None:
    for transfer, code in ((2, "hdr"), (16, None)):
        path = hdr_clip(tmp_path / f"{transfer}.mp4", steps([0, 65_535]), transfer)
        path.write_bytes(path.read_bytes().replace(b"hev1", b"dvhe"))
        assert getattr(loaded(path), "code", None) == code


def test_a_calibration_on_sdr_does_not_hold_for_what_was_converted() -> None:
    facts = [Facts(sha256="0" * 64, bytes=1, format=name, width=9, height=9) for name in ("HEVC", "HEVC HLG")]
    assert ranges_of(facts[:1]).atypical(facts[0]) == ()
    assert ranges_of(facts[:1]).atypical(facts[1]) == ("format",)


def test_a_frame_says_what_its_container_leaves_open(tmp_path: Path) -> None:
    path = hdr_clip(tmp_path / "hdr.mp4", steps([30_000, 30_000]), 16)
    data = path.read_bytes()
    assert b"colrnclx" in data
    (tmp_path / "silent.mp4").write_bytes(data.replace(b"colrnclx", b"freenclx"))
    clip = loaded(tmp_path / "silent.mp4")
    assert isinstance(clip, LoadedClip)
    assert clip.clip.converted_from == "PQ"
