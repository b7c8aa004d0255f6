"""Frames: every one that the file has, upright, in the right colours and proportions, at the time a player shows it.

The oracle is PyAV used directly, arithmetic, or the picture that was encoded.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.errors import VideoError
from ingest.decode import sandbox
from ingest.decode.reader import DecodeOptions, Ending, VideoFacts, open_video

Clip = Callable[..., Path]

# A decoder program in which decord gives another picture than PyAV from frame 20 on.
GIVES_UP = """
from ingest.decode.child import by_decord, program, source
compare = by_decord._Reader.compare
def fails(index, picture, proof):
    if index >= 20:
        raise source.Refusal("decode_error", "another picture")
    compare(index, picture, proof)
by_decord._Reader.compare, by_decord.SEGMENT_BYTES = staticmethod(fails), 5 * 64 * 96 * 3
program.main()
"""


def frames_of(
    path: Path, step: int = 1, **options: object
) -> tuple[np.ndarray, np.ndarray, np.ndarray, VideoFacts, Ending, str]:
    """Everything the reader gives; of the pictures only every `step`-th row and column."""
    with open_video(path, DecodeOptions.model_validate(options)) as reader:
        batches = [(batch.rgb[:, ::step, ::step].copy(), batch.frame_index, batch.time_s) for batch in reader]
        assert reader.ending is not None
        rgb, index, time_s = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        return rgb, index, time_s, reader.facts, reader.ending, reader.decoder


def plain(path: Path) -> tuple[int, list[float]]:
    """Count and times of a full decode by PyAV itself."""
    with av.open(str(path)) as container:
        stream = container.streams.best("video")
        start = (container.start_time or 0) / av.time_base
        times = [float(frame.pts * frame.time_base) - start for frame in container.decode(stream)]
    return len(times), times


def remuxed(source: Path, target: Path, change: Callable[[int, av.Packet], av.Packet]) -> Path:
    """The same packets in another file, each as `change(number, packet)` has it."""
    with av.open(str(source)) as container, av.open(str(target), "w", options={"movflags": "faststart"}) as copy:
        stream = copy.add_stream_from_template(container.streams.video[0])
        for number, packet in enumerate(packet for packet in container.demux(video=0) if packet.size):
            packet = change(number, packet)
            packet.stream = stream
            copy.mux(packet)
    return target


def with_content(packet: av.Packet, content: bytes) -> av.Packet:
    other = av.Packet(content)
    other.pts, other.dts, other.time_base = packet.pts, packet.dts, packet.time_base
    return other


def noise(count: int) -> Iterator[np.ndarray]:
    generator = np.random.default_rng(3)
    for _ in range(count):
        yield generator.integers(0, 255, (64, 96, 3), np.uint8)


def counted(count: int, width: int = 96, height: int = 64) -> Iterator[np.ndarray]:
    """Grey pictures whose level tells their number: 10, 13, 16, ..."""
    for number in range(count):
        yield np.full((height, width, 3), 10 + 3 * number % 240, np.uint8)


@pytest.fixture
def clip(tmp_path: Path) -> Clip:
    """Writes pictures as a video."""

    def write(
        pictures: Iterable[np.ndarray | av.VideoFrame],
        name: str = "clip.mp4",
        codec: str = "libx264",
        pix_fmt: str = "yuv444p",
        rate: int = 25,
        gop: int = 12,
        prepare: Callable[[av.VideoStream], None] = lambda stream: None,
        pts: Callable[[int], int] = lambda number: number,
        options: dict[str, str] | None = None,
    ) -> Path:
        path = tmp_path / name
        with av.open(str(path), "w") as container:
            stream = container.add_stream(codec, rate, options=options or {})
            for number, picture in enumerate(pictures):
                frame = picture if isinstance(picture, av.VideoFrame) else av.VideoFrame.from_ndarray(picture, "rgb24")
                if number == 0:
                    stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, pix_fmt
                    stream.codec_context.gop_size = gop
                    prepare(stream)
                frame.pts, frame.time_base = pts(number), Fraction(1, rate)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        return path

    return write


def test_frames_of_a_known_clip_in_order(clip: Clip) -> None:
    rgb, index, time_s, facts, ending, decoder = frames_of(clip(counted(60), options={"crf": "0"}))
    assert index.tolist() == list(range(60))
    assert index.dtype == np.int32
    assert np.abs(rgb[:, 32, 48].astype(int) - [[10 + 3 * n % 240] * 3 for n in range(60)]).max() <= 2
    np.testing.assert_allclose(time_s, np.arange(60) / 25, atol=1e-9)
    assert (facts.width, facts.height, facts.rotation, facts.fps, facts.codec) == (96, 64, 0, 25.0, "h264")
    assert (ending.status, ending.reason, ending.frames, decoder) == ("ok", None, 60, "pyav")
    assert ending.duration_s == pytest.approx(60 / 25)


@pytest.mark.soak
@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_every_real_clip_has_the_frames_and_times_of_a_plain_decode(clips: Path, odd: Path, decoder: str) -> None:
    extras = ("video_0.mov", "no_duration.webm", "nasa_13013.mp4", "weird_aspect.small.mpg", "unordered.mov")
    for path in [*sorted(clips.iterdir()), *(odd / name for name in extras)]:
        count, times = plain(path)
        _, index, time_s, _, ending, _ = frames_of(path, 16, decoder=decoder)
        assert ending.message == {"weird_aspect.small.mpg": "1 of 36 frames are damaged"}.get(path.name), path
        assert index.tolist() == list(range(count)), path
        np.testing.assert_allclose(time_s, times, rtol=0, atol=1e-6, err_msg=str(path))


def check_durations(path: Path, **options: object) -> None:
    """Each frame lasts until the next that is given, and together they last as long as the video."""
    with open_video(path, DecodeOptions.model_validate(options)) as reader:
        batches = [(batch.time_s, batch.duration_s) for batch in reader]
        time_s, duration_s = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        assert reader.ending is not None
    assert duration_s.dtype == np.float64
    np.testing.assert_allclose(duration_s[:-1], np.diff(time_s), rtol=0, atol=1e-12)
    assert duration_s.min() > 0
    assert duration_s.sum() == pytest.approx(reader.ending.duration_s, abs=1e-9)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    gaps=st.lists(st.integers(1, 9), min_size=1, max_size=40),
    every=st.integers(1, 5),
    batch_frames=st.sampled_from([1, 3, 16]),
    decoder=st.sampled_from(["pyav", "decord"]),
)
def test_frames_of_any_rate_last_as_long_as_their_video(
    clip: Clip, gaps: list[int], every: int, batch_frames: int, decoder: str
) -> None:
    times = [0, *itertools.accumulate(gaps)]
    path = clip(counted(len(times)), pts=times.__getitem__, options={"bf": "2"})
    check_durations(path, every=every, batch_frames=batch_frames, decoder=decoder)


@pytest.mark.parametrize("every", [1, 7])
def test_frames_of_a_damaged_file_last_as_long_as_is_said_of_it(odd: Path, every: int) -> None:
    for name in ("corrupted.mp4", "unordered.mov", "no_duration.webm", "weird_aspect.small.mpg"):
        check_durations(odd / name, every=every)


@pytest.mark.parametrize("every", [1, 2])
def test_frames_keep_their_durations_if_decord_fails_in_the_middle(clip: Clip, every: int) -> None:
    path = clip(counted(50))
    child = path.with_name("child.py")
    child.write_text(GIVES_UP)
    with open_video(path, DecodeOptions(decoder="decord", every=every), child) as reader:
        batches = [(batch.frame_index, batch.duration_s) for batch in reader]
        index, duration_s = (np.concatenate(parts) for parts in zip(*batches, strict=True))
        assert reader.decoder == "decord+pyav"
    assert index.tolist() == list(range(0, 50, every))
    np.testing.assert_allclose(duration_s, [every / 25] * len(index))


@pytest.mark.soak
def test_both_decoders_give_the_same_pixels(clips: Path) -> None:
    for name in ("WolfgangLanger_Pexels.mp4", "face_noface.mov", "flipping_a_pancake.mkv"):
        ours, theirs = (frames_of(clips / name, 4, decoder=decoder) for decoder in ("pyav", "decord"))
        assert theirs[5] == "decord"
        assert np.abs(ours[0].astype(np.int16) - theirs[0]).mean() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("name", "every"), [("sintel_30s.mp4", 40), ("no_face.mp4", 2), ("face_noface.mov", 3)])
def test_one_frame_in_so_many_is_the_same_frame_by_either_decoder(clips: Path, name: str, every: int) -> None:
    rgb, index, time_s, *_ = frames_of(clips / name, 4)
    for decoder in ("pyav", "decord"):
        chosen = frames_of(clips / name, 4, every=every, decoder=decoder)
        assert chosen[1].tolist() == index[::every].tolist()
        np.testing.assert_allclose(chosen[2], time_s[::every], rtol=0, atol=1e-6)
        assert np.abs(chosen[0].astype(np.int16) - rgb[::every]).mean() < 0.5


def test_file_that_lies_about_its_frames_is_read_by_pyav(clips: Path) -> None:
    # decord counts 98 frames, of which the first three do not exist: its index is three off.
    for every in (1, 2):
        *_, ending, decoder = frames_of(clips / "no_face.mp4", 4, decoder="decord", every=every)
        assert (ending.frames, decoder) == (len(range(0, 95, every)), "pyav")


@pytest.mark.parametrize("lost", [5, 17])
def test_sampling_where_a_packet_gives_no_frame_is_done_by_pyav(clip: Clip, tmp_path: Path, lost: int) -> None:
    not_coded = bytes([0, 0, 1, 0xB6, 0b01010000, 0b01000000])  # an MPEG-4 picture "as before", of which none comes

    def change(number: int, packet: av.Packet) -> av.Packet:
        return with_content(packet, not_coded) if number == lost else packet

    path = remuxed(clip(counted(60), "all.mkv", "mpeg4", "yuv420p"), tmp_path / "less.mkv", change)
    count, times = plain(path)
    assert count == 59
    _, index, time_s, _, _, decoder = frames_of(path, decoder="decord", every=2)
    assert decoder == "pyav"
    assert index.tolist() == list(range(0, 59, 2))
    np.testing.assert_allclose(time_s, times[::2], atol=1e-6)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_packet_without_content_shows_the_picture_before_it_on_and_is_no_damage(decoder: str) -> None:
    # Theora in Ogg, where a packet without content stands for a picture that has not changed. ffmpeg made it:
    #   -f lavfi -i testsrc=size=32x32:rate=25 -frames:v 20 -vf "trim=end_frame=17,tpad=stop_mode=clone:stop=3"
    #   -c:v libtheora -q:v 3 -g 10
    # and ffprobe -count_frames finds 15 frames in it, 0.8 s long.
    path = Path(__file__).with_name("theora.ogv")
    with av.open(str(path)) as container:
        sizes = [packet.size for packet in container.demux(video=0)][:20]
    assert [number for number, size in enumerate(sizes) if not size] == [1, 11, 17, 18, 19]
    with open_video(path, DecodeOptions.model_validate({"decoder": decoder, "batch_frames": 4})) as reader:
        batches = [(batch.time_s, batch.duration_s) for batch in reader]
        time_s, duration_s = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    shown = [number for number, size in enumerate(sizes) if size]
    np.testing.assert_allclose(time_s, np.array(shown) / 25, atol=1e-9)
    np.testing.assert_allclose(duration_s, np.diff([*shown, 20]) / 25, atol=1e-9)
    assert reader.ending is not None
    assert (reader.ending.status, reader.ending.reason, reader.ending.frames) == ("ok", None, 15)
    assert reader.ending.duration_s == pytest.approx(0.8)


def test_what_decord_cannot_open_is_read_by_pyav(odd: Path) -> None:
    for name, count in (("av1_video.mkv", 125), ("bitmap.mp4", 5)):
        *_, ending, decoder = frames_of(odd / name, decoder="decord")
        assert (ending.frames, decoder) == (count, "pyav")
    *_, ending, decoder = frames_of(odd / "corrupted.mp4", decoder="decord")  # it fails there, sooner or later
    assert ending.frames == 49
    assert decoder.endswith("pyav")


def test_variable_frame_rate_keeps_its_times(clip: Clip) -> None:
    path = clip(counted(20), pts=lambda number: number * number)
    assert frames_of(path)[2] == pytest.approx([n * n / 25 for n in range(20)])


def test_time_counts_from_the_start_of_the_container_as_a_player_shows_it(tmp_path: Path) -> None:
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as container:
        video, sound = container.add_stream("mpeg4", 25), container.add_stream("pcm_s16le", 8000)
        video.width = video.height = 64
        video.pix_fmt = "yuv420p"
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), "s16", "mono")
        silence.sample_rate, silence.pts = 8000, 8000 * 5  # from 5 s to 7 s
        container.mux(sound.encode(silence))
        for number in range(10):
            frame = av.VideoFrame(64, 64, "yuv420p")
            frame.pts, frame.time_base = 25 * 6 + number, Fraction(1, 25)  # from 6 s
            container.mux(video.encode(frame))
        container.mux(video.encode())
    for decoder in ("pyav", "decord"):
        assert frames_of(path, decoder=decoder)[2] == pytest.approx(1 + np.arange(10) / 25, abs=2e-3)


def test_times_ascend_where_a_recording_was_joined_from_two(clip: Clip, tmp_path: Path) -> None:
    part = clip(counted(20), "part.ts", "mpeg2video", "yuv420p").read_bytes()
    (tmp_path / "joined.ts").write_bytes(part + part)
    _, index, time_s, *_ = frames_of(tmp_path / "joined.ts")
    assert len(index) == 40
    assert np.all(np.diff(time_s) > 0)
    assert time_s[-1] == pytest.approx(39 / 25, abs=0.05)


def test_frames_without_a_time_get_one_that_ascends(clip: Clip) -> None:
    _, index, time_s, *_ = frames_of(clip(counted(15), "raw.m1v", "mpeg1video", "yuv420p"))
    assert len(index) == 15
    assert np.all(np.diff(time_s) > 0)


@pytest.mark.parametrize(("degrees", "flip"), itertools.product((0, 90, 180, 270), (False, True)))
@pytest.mark.parametrize(("decoder", "every"), [("pyav", 1), ("decord", 2)])
def test_all_eight_orientations_come_upright(clip: Clip, degrees: int, flip: bool, decoder: str, every: int) -> None:
    coded = np.zeros((64, 96, 3), np.uint8)
    coded[:32, :48], coded[:32, 48:], coded[32:, :48] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    path = clip([coded] * 3, prepare=lambda stream: stream.set_display_rotation(degrees, hflip=flip))
    upright = np.rot90(coded, degrees // 90)  # counter-clockwise, then mirrored
    upright = upright[:, ::-1] if flip else upright
    rgb, *_, facts, _, used = frames_of(path, decoder=decoder, every=every)
    assert used == ("pyav" if flip else decoder)  # decord takes no notice of a mirrored matrix
    assert rgb.shape[1:] == upright.shape
    assert np.abs(rgb[0].astype(int) - upright).mean() < 6
    assert (facts.width, facts.height) == (upright.shape[1], upright.shape[0])
    if not flip:
        assert facts.rotation == -degrees % 360


def test_real_phone_recordings_are_upright(odd: Path) -> None:
    for name, size in (("ios9.mov", (720, 1280)), ("video_90.mov", (320, 568))):
        rgb, *_, facts, _, _ = frames_of(odd / name)
        with av.open(str(odd / name)) as container:
            coded = next(container.decode(video=0)).to_ndarray(format="rgb24")
        assert (facts.rotation, facts.width, facts.height) == (90, *size)
        assert np.array_equal(rgb[0], np.rot90(coded, -1))


@pytest.mark.parametrize(("aspect", "shape"), [((16, 9), (64, 171)), ((1, 2), (128, 96)), ((1, 1), (64, 96))])
def test_pixels_become_square_by_stretching_the_short_side(
    clip: Clip, aspect: tuple[int, int], shape: tuple[int, int]
) -> None:
    def prepare(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(*aspect)

    rgb, *_, facts, _, _ = frames_of(clip(counted(3), prepare=prepare))
    assert rgb.shape[1:3] == shape
    assert (facts.width, facts.height) == (96, 64)  # of the source: boxes are scaled back to it


def test_absurd_pixel_aspect_is_taken_for_square(clip: Clip) -> None:
    def prepare(stream: av.VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(500, 1)

    assert frames_of(clip(counted(3), prepare=prepare))[0].shape[1:3] == (64, 96)


# Y, Cb, Cr of a strong orange, limited range, 8 bits; and Kr, Kb of the matrices (ITU-R BT.601, BT.709, BT.2020).
ORANGE = (140, 70, 190)
MATRICES = {5: (0.299, 0.114), 1: (0.2126, 0.0722), 9: (0.2627, 0.0593), 2: (0.299, 0.114)}


def converted(y: float, cb: float, cr: float, kr: float, kb: float, full: bool) -> np.ndarray:
    luma, blue, red = (
        (y, cb - 128, cr - 128) if full else ((y - 16) / 219 * 255, *((np.array([cb, cr]) - 128) / 224 * 255))
    )
    r, b = luma + 2 * (1 - kr) * red, luma + 2 * (1 - kb) * blue
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    return np.clip([r, g, b], 0, 255)


def flat(pix_fmt: str, levels: tuple[int, ...], bits: int = 8) -> av.VideoFrame:
    frame = av.VideoFrame(64, 48, pix_fmt)
    for plane, level in zip(frame.planes, levels, strict=False):
        sample = (level << (bits - 8)).to_bytes(1 if bits == 8 else 2, "little")
        plane.update(sample * (plane.buffer_size // len(sample)))
    return frame


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize(("pix_fmt", "bits"), [("yuv420p", 8), ("yuv444p", 8), ("yuv420p10le", 10)])
def test_colours_follow_the_stream_s_matrix_and_range(
    clip: Clip, pix_fmt: str, bits: int, matrix: int, full: bool
) -> None:
    def prepare(stream: av.VideoStream) -> None:
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 2 if full else 1

    frame = flat(pix_fmt, ORANGE, bits)
    frame.color_range = 2 if full else 1
    rgb = frames_of(clip([frame], pix_fmt=pix_fmt, prepare=prepare, options={"crf": "1"}))[0]
    assert np.abs(rgb[0, 24, 32] - converted(*ORANGE, *MATRICES[matrix], full)).max() <= 3


def pq(nits: float) -> float:
    """SMPTE ST 2084's signal for a luminance."""
    power = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * power) / (1 + 2392 / 128 * power)) ** (2523 / 32)


def test_hdr_becomes_srgb_with_its_reference_white_as_white(clip: Clip) -> None:
    def prepare(stream: av.VideoStream) -> None:
        context = stream.codec_context
        context.colorspace, context.color_primaries, context.color_trc, context.color_range = 9, 9, 16, 1

    frames = []
    for nits in (203, 50, 1000):
        frames.append(flat("yuv420p10le", (0, 0, 0)))
        for plane, level in zip(frames[-1].planes, (round(64 + 876 * pq(nits)), 512, 512), strict=True):
            plane.update(level.to_bytes(2, "little") * (plane.buffer_size // 2))
    rgb = frames_of(clip(frames, pix_fmt="yuv420p10le", prepare=prepare, options={"crf": "1"}))[0]
    srgb = 255 * (1.055 * (50 / 203) ** (1 / 2.4) - 0.055)
    assert np.abs(rgb[:, 24, 32] - np.array([[255], [srgb], [255]])).max() <= 4


@pytest.mark.parametrize(
    ("codec", "name", "pix_fmt", "levels", "expected"),
    [
        ("libx264", "grey.mp4", "gray", (235,), (255, 255, 255)),
        ("libx264rgb", "rgb.mp4", "rgb24", (), (0, 0, 0)),
        ("qtrle", "alpha.mov", "argb", (), (0, 0, 0)),
        ("ffv1", "packed.mkv", "bgr0", (96,), (96, 96, 96)),
        ("ffv1", "alpha.mkv", "yuva420p", (235, 128, 128, 0), (255, 255, 255)),
        ("mjpeg", "full.mov", "yuvj420p", (235, 128, 128), (235, 235, 235)),
    ],
)
def test_uncommon_pixel_formats(
    clip: Clip, codec: str, name: str, pix_fmt: str, levels: tuple[int, ...], expected: tuple[int, int, int]
) -> None:
    frame = flat(pix_fmt, levels or (0,) * 4)
    rgb, *_, ending, _ = frames_of(clip([frame], name, codec, pix_fmt))
    assert ending.status == "ok"
    assert np.abs(rgb[0, 24, 32].astype(int) - expected).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (33, 17), (641, 359)])
def test_odd_sizes(clip: Clip, size: tuple[int, int]) -> None:
    width, height = size
    rgb = frames_of(clip(counted(2, width, height), "clip.mkv", "ffv1", "yuv444p"))[0]
    assert rgb.shape == (2, height, width, 3)
    assert np.abs(rgb[1].astype(int) - 13).max() <= 2


def test_change_of_shape_in_mid_stream_is_fitted_into_the_first(clip: Clip, tmp_path: Path) -> None:
    wide = clip(counted(10, 96, 64), "wide.ts", "mpeg2video", "yuv420p").read_bytes()
    tall = clip([np.full((160, 80, 3), 200, np.uint8)] * 10, "tall.ts", "mpeg2video", "yuv420p").read_bytes()
    (tmp_path / "both.ts").write_bytes(wide + tall)
    rgb, index, _, facts, _, _ = frames_of(tmp_path / "both.ts")
    assert rgb.shape[1:] == (64, 96, 3)
    assert len(index) == plain(tmp_path / "both.ts")[0] > 15
    assert (facts.width, facts.height) == (96, 64)
    assert np.abs(rgb[-1, :, 32:64].astype(int) - 200).max() <= 3  # 80x160 as 32x64
    assert not rgb[-1, :, :32].any()
    assert not rgb[-1, :, 64:].any()


def test_frames_that_nobody_wants_are_signs_of_life(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "FRAME_ALLOWANCE_S", 10.0)
    path, beats = clip(counted(60)), []
    child = path.with_name("child.py")
    child.write_text("from ingest.decode.child import program\nprogram.SILENCE_S = 0\nprogram.main()")
    with open_video(path, DecodeOptions(every=59), child, beats.append) as reader:
        assert [batch.frame_index.tolist() for batch in reader] == [[0], [59]]
        assert beats == [0] * 58
        assert reader._sandbox._allowance >= 60 * 10


def test_best_stream_is_taken_and_a_cover_is_no_video(odd: Path, tmp_path: Path) -> None:
    assert frames_of(odd / "nasa_13013.mp4")[3].width == 480  # of two, the one that ffmpeg calls best
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        sound, cover = container.add_stream("aac", 8000), container.add_stream("mjpeg", 1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame(64, 48, "yuvj420p")))
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        silence.sample_rate = 8000
        container.mux(sound.encode(silence))
    with pytest.raises(VideoError) as error, open_video(path):
        pass
    assert error.value.reason == "no_video_stream"
    assert "only a cover" in error.value.message


def test_damaged_packets_are_skipped_to_the_end_and_told(odd: Path) -> None:
    # 49 is what the ffmpeg command counts; PyAV's own loop ends at the damaged packet, after 28.
    _, index, _, _, ending, _ = frames_of(odd / "corrupted.mp4")
    assert len(index) == ending.frames == 49
    assert (ending.status, ending.reason) == ("partial", "decode_error")
    assert ending.message is not None
    assert "1 of 50" in ending.message


def test_file_that_was_cut_short_is_partial(clip: Clip, tmp_path: Path) -> None:
    data = remuxed(clip(noise(60)), tmp_path / "front.mp4", lambda number, packet: packet).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    _, index, _, _, ending, _ = frames_of(tmp_path / "cut.mp4")
    assert 10 < len(index) < 50
    assert (ending.status, ending.reason) == ("partial", "decode_error")


@pytest.mark.parametrize(("name", "codec"), [("clip.mkv", "mpeg4"), ("clip.wmv", "wmv2")])
def test_file_that_was_cut_between_two_frames_is_partial_where_it_states_its_length(
    clip: Clip, name: str, codec: str
) -> None:
    path = clip(noise(60), name, codec, "yuv420p")
    with av.open(str(path)) as container:
        places = [packet.pos for packet in container.demux(video=0) if packet.size]
    assert frames_of(path)[4].status == "ok"
    os.truncate(path, places[40])
    ending = frames_of(path)[4]
    assert (ending.status, ending.reason) == ("partial", "decode_error")
    assert "cut short" in str(ending.message)


def test_packet_that_silently_gives_no_frame_is_told(clip: Clip, tmp_path: Path) -> None:
    delimiter = b"\0\0\0\3\x46\1\x50"  # of access units: HEVC that holds no picture

    def without_picture(number: int, packet: av.Packet) -> av.Packet:
        return with_content(packet, delimiter) if number == 19 else packet

    whole = clip(noise(30), codec="libx265", options={"x265-params": "log-level=none:bframes=0"}, gop=10)
    path = remuxed(whole, tmp_path / "less.mp4", without_picture)
    for decoder in ("pyav", "decord"):
        _, index, _, _, ending, _ = frames_of(path, decoder=decoder)
        assert len(index) == plain(path)[0] == 29
        assert (ending.status, ending.reason) == ("partial", "decode_error")
        assert "1 of 30" in str(ending.message)


def test_frames_with_wrong_pictures_are_told(clip: Clip) -> None:
    path = clip(noise(30), "clip.ts", "mpeg2video", "yuv420p")
    data = bytearray(path.read_bytes())
    for place in range(len(data) // 4, len(data), 4000):
        data[place] ^= 255
    path.write_bytes(data)
    _, index, _, _, ending, _ = frames_of(path)
    assert len(index) > 20
    assert (ending.status, ending.reason) == ("partial", "decode_error")
    assert "frames are damaged" in str(ending.message)


def test_larger_picture_than_allowed_is_refused(clip: Clip) -> None:
    path = clip(counted(3))
    with pytest.raises(VideoError) as error, open_video(path, DecodeOptions(max_pixels=96 * 64 - 1)):
        pass
    assert error.value.reason == "too_large"


def test_batches_are_bounded_and_overwritten_only_when_the_next_is_asked_for(clip: Clip) -> None:
    with open_video(clip(counted(50)), DecodeOptions(batch_frames=7)) as reader:
        held = []
        for batch in reader:
            assert 1 <= len(batch) <= 7
            assert batch.rgb.flags.c_contiguous
            assert np.abs(batch.rgb[0, 0, 0].astype(int) - (10 + 3 * int(batch.frame_index[0]) % 240)).max() <= 2
            held.append(batch)
        assert sum(len(batch) for batch in held) == 50
    held[0].rgb.sum()  # memory that is still held stays readable after the end


@pytest.mark.parametrize("name", ["missing.mp4", "folder", "fifo.mp4"])
def test_what_is_no_file_fails_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "fifo.mp4")
    with pytest.raises(VideoError) as error, open_video(tmp_path / name):
        pass
    assert error.value.reason == ("missing" if name == "missing.mp4" else "unreadable")


def test_name_says_nothing(clip: Clip, tmp_path: Path) -> None:
    path = clip(counted(3))
    for name in (b"concat:a|b.mp4", b"%03d.mp4", b"-i.mp4", b"caf\xe9.mp4", b"a\nb.txt"):
        renamed = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.rename(renamed)
        path = renamed
        assert len(frames_of(path)[1]) == 3
