"""Videos: memory over the length of a clip, time per clip by stage, damage, and a scan that is killed and resumed.

    python benchmarks/video.py DETECTOR [FOLDER]

The clips are made by PyAV's encoders, in FOLDER if it is given: 6 each of H.264, HEVC, VP8, VP9, AV1, Motion JPEG and
GIF, and 6 that are broken in different ways.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from fractions import Fraction
from pathlib import Path

os.environ.setdefault("SVT_LOG", "-1")

import av
import numpy as np
from PIL import Image

from muflow_cli.images import worker
from muflow_cli.images.clips import LoadedClip
from muflow_cli.images.inputs import Input
from muflow_cli.images.loader import LoadSpec, load_with_clips
from muflow_cli.run_specs import ClipSpec, InputSpec
from muflow_cli.specs import ViewSpec

WIDTH, HEIGHT, RATE = 480, 360, 25
KINDS = {
    "h264.mp4": ("libx264", {"preset": "veryfast"}),
    "hevc.mov": ("libx265", {"preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"}),
    "vp8.webm": ("libvpx", {"deadline": "realtime", "cpu-used": "8"}),
    "vp9.webm": ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"}),
    "av1.mkv": ("libsvtav1", {"preset": "12"}),
    "mjpeg.avi": ("mjpeg", {}),
}
CLIPS_EACH = 6
SECONDS = 4
LENGTHS = (10, 60, 600, 3600, 36_000)


def pictures(count: int, seed: int) -> list[np.ndarray]:
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    grain = generator.normal(scale=4, size=(8, HEIGHT, WIDTH, 3))
    slope = generator.uniform(40, 200, 3)
    frames = []
    for number in range(count):
        blob = 90 * np.exp(-(((x - 100 - 3 * number % WIDTH) / 60) ** 2 + ((y - 150) / 80) ** 2))
        frame = slope * (y / HEIGHT)[..., None] + blob[..., None] + grain[number % 8]
        frames.append(frame.clip(0, 255).astype(np.uint8))
    return frames


def write(path: Path, kind: str, frames: list[np.ndarray], step: int = 1, gop: int = 50) -> None:
    encoder, options = KINDS[kind]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(encoder, rate=RATE)
        stream.width, stream.height, stream.gop_size, stream.options = WIDTH, HEIGHT, gop, options
        stream.pix_fmt = "yuvj420p" if encoder == "mjpeg" else "yuv420p"
        stream.codec_context.thread_count = 1
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
            frame.pts, frame.time_base = number * step, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def make(folder: Path) -> None:
    for seed in range(CLIPS_EACH):
        frames = pictures(SECONDS * RATE, seed)
        for kind in KINDS:
            write(folder / f"{seed}.{kind}", kind, frames)
        images = [Image.fromarray(frame).quantize(64) for frame in frames[::5]]
        images[0].save(folder / f"{seed}.gif", save_all=True, append_images=images[1:], duration=200)
    whole = (folder / "0.h264.mp4").read_bytes()
    webm = (folder / "0.vp9.webm").read_bytes()
    noise = np.random.default_rng(0).bytes(2000)
    broken = {
        "headless.mp4": whole[: len(whole) // 2],
        "cut.webm": webm[: len(webm) // 2],
        "empty.mp4": whole[:32],
        "noise.mkv": webm[:300] + noise,
        "overwritten.webm": webm[: len(webm) // 3] + noise * 8 + webm[len(webm) // 3 + len(noise) * 8 :],
        "text.mp4": b"no video at all\n" * 100,
    }
    for name, data in broken.items():
        (folder / f"broken {name}").write_bytes(data)


def memory(folder: Path) -> None:
    """Peak memory of the decoding process, which is started anew for each clip."""
    print("length s   file MB   frames   peak MB   CPU of decoding ms")
    spec = LoadSpec(views={"main": ViewSpec(size=256)}, inputs=InputSpec(clips=ClipSpec()), workers=1, ahead=1)
    for seconds in LENGTHS:
        # The same density of keyframes in all: one every ten seconds, and the frames between them for the short ones.
        step = 1 if seconds <= 60 else RATE * 10
        frames = pictures(200, 1)
        count = seconds * RATE // step
        path = folder / f"long {seconds}.mp4"
        write(path, "h264.mp4", [frames[n % 200] for n in range(count)], step, 250 if step == 1 else 1)
        worker._end_idle()
        (clip,) = load_with_clips([Input(str(path))], spec)
        process = worker._POOLS[worker.CLIPS][0]._process
        if process is None or not isinstance(clip, LoadedClip):
            raise SystemExit(f"{path} cannot be read")
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM"))
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        used = (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK") * 1000
        print(f"{seconds:8}   {path.stat().st_size / 1e6:7.1f}   {len(clip.frames):6}   {peak:7.0f}   {used:7.0f}")
        path.unlink()


def scan(detector: str, folder: Path, output: Path, *more: str, kill_after: int = 0) -> tuple[int, str]:
    words = [sys.executable, "-m", "muflow_cli", "scan", str(folder), "--detector", detector, "-o", str(output)]
    words += ["--animations", "--frames", "16", "--precision", "fp32", *more]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)  # noqa: S603 - muflow itself
    if kill_after:
        while not output.exists() or len(output.read_bytes().splitlines()) < kill_after:
            time.sleep(0.2)
        process.send_signal(signal.SIGKILL)
    _, text = process.communicate()
    return process.returncode, text


def results(report: Path) -> list[bytes]:
    return [line for line in report.read_bytes().splitlines() if line.startswith(b'{"type":"result"')]


def run(detector: str, folder: Path) -> None:
    make(folder)
    files = sorted(folder.iterdir())
    print(f"{len(files)} clips, {sum(file.stat().st_size for file in files) / 1e6:.1f} MB")
    with tempfile.TemporaryDirectory() as name:
        whole, killed = Path(name, "whole.jsonl"), Path(name, "killed.jsonl")
        status, text = scan(detector, folder, whole)
        print(f"exit status {status}\n{text}")
        for line in results(whole):
            value = json.loads(line)
            if "broken" in value["path"]:
                said = value.get("error", {"code": value.get("verdict"), "message": ""})
                print(f"{Path(value['path']).name:24} {said['code']:14} {said['message']}")
        last = json.loads(whole.read_bytes().splitlines()[-1])["summary"]
        print({stage: round(1000 * s / last["inputs"], 1) for stage, s in last["stages"].items()}, "ms per clip")
        status, _ = scan(detector, folder, killed, kill_after=12)
        before = len(results(killed))
        again, text = scan(detector, folder, killed, "--resume")
        same = results(killed) == results(whole)
        print(f"killed ({status}) after {before} results; resumed ({again}): the same results {same}\n{text}")
        memory(Path(name))


if __name__ == "__main__":
    if len(sys.argv) > 2:
        Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
        run(sys.argv[1], Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as made:
            run(sys.argv[1], Path(made))
