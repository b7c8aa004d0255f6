"""The decoder's child process: what it may not do, how it ends, and that nothing is left of it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from common.errors import DecoderKilled, VideoError
from ingest.decode import sandbox
from ingest.decode.reader import DecodeOptions, open_video

# A child that keeps to the protocol and gives one frame of 8x8, before it does what a test is about.
WELL_BEHAVED = """
import json, mmap, os, resource, socket, sys, time
from ingest.decode.child import program
from ingest.decode.child.program import Link, confine
link = Link(int(sys.argv[1]))
request = link.receive()
confine(request)
def facts(**other):
    link.send({"facts": {"container": "c", "codec": "c", "width": 8, "height": 8, "fps": 25.0, "rotation": 0}
               | other, "picture": [8, 8]})
    link.receive()
def give(frame_index, time_s, slot=0, until_s=9):
    link.send({"slot": slot, "frame_index": frame_index, "time_s": time_s, "until_s": until_s})
def frame(number=0):
    give([number], [number / 25], until_s=(number + 1) / 25)
def say(what):
    link.send({"error": {"reason": "unreadable", "message": json.dumps(what)}})
    time.sleep(60)
"""


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(200):
            frame = av.VideoFrame(64, 48, "yuv420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture
def child(tmp_path: Path) -> Callable[[str], Path]:
    def write(body: str) -> Path:
        path = tmp_path / "child.py"
        path.write_text(WELL_BEHAVED + textwrap.dedent(body))
        return path

    return write


def failure(video: Path, child: Path, **options: float) -> VideoError:
    before = psutil.Process().children()
    with pytest.raises(VideoError) as error, open_video(video, DecodeOptions.model_validate(options), child) as reader:
        for _ in reader:
            pass
    assert "\n" not in error.value.message
    assert len(error.value.message) < 400
    assert psutil.Process().children() == before
    return error.value


def test_child_sees_no_environment_no_foreign_file_and_keeps_within_limits(
    video: Path, child: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    ours = os.open(video, os.O_RDONLY)
    os.set_inheritable(ours, True)
    program = child("""
        limits = [resource.getrlimit(getattr(resource, "RLIMIT_" + name))[0] for name in ("DATA", "FSIZE", "CORE")]
        try:
            open("/tmp/should-not-be", "wb").write(bytes(1 << 20))
            wrote = True
        except OSError:
            wrote = False
        finally:
            if os.path.exists("/tmp/should-not-be"):
                os.unlink("/tmp/should-not-be")
        say([sorted(os.environ), len(os.listdir("/proc/self/fd")), limits, wrote, os.getsid(0) == os.getpid(),
             sys.flags.isolated])
    """)
    try:
        environment, descriptors, limits, wrote, own_session, isolated = json.loads(
            failure(video, program, memory_bytes=1 << 30).message
        )
    finally:
        os.close(ours)
    assert set(environment) <= {"PATH", "OPENBLAS_NUM_THREADS", "LC_CTYPE"}
    assert descriptors == 7  # standard ones, socket, video, ring, and the listing's own
    assert limits == [1 << 30, 64 << 10, 0]
    assert not wrote
    assert own_session
    assert isolated


def test_child_has_no_network_where_the_kernel_lets_it_be_dropped(video: Path, child: Callable[[str], Path]) -> None:
    allowed = subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode == 0
    if not allowed:
        pytest.skip("this machine lets no process drop its network")
    message = failure(video, child("say(socket.if_nameindex())")).message
    assert "eth" not in message
    assert "lo" in message


@pytest.mark.parametrize(
    ("body", "reason", "words"),
    [
        ("os.abort()", "decode_error", "SIGABRT"),
        ("os.kill(os.getpid(), 11)", "decode_error", "SIGSEGV"),
        ("os.kill(os.getpid(), 9)", "memory_limit", "killed"),
        ("os.kill(os.getpid(), 40)", "decode_error", "signal 40"),
        ("bytearray(1 << 40)", "memory_limit", "memory"),
        ("sys.exit('terminate called after throwing std::bad_alloc')", "memory_limit", "memory"),
        ("sys.exit('broken \\x1b[31m thing')", "decode_error", "broken"),
        ("while True: pass", "decode_timeout", "no frame"),
        ("time.sleep(60)", "decode_timeout", "no frame"),
        ("program.allow_cpu(-1)\nwhile True: pass", "decode_timeout", "processor"),
        ("link._socket.send(b'no json')", "decode_error", "nonsense"),
        ("link.send({'facts': {}})", "decode_error", "nonsense"),
        ("link.send([1])\ntime.sleep(9)", "decode_error", "nonsense"),
        ("link.send({'error': {}})", "decode_error", "nonsense"),
        ("link._socket.close(); time.sleep(60)", "decode_error", "connection"),
        ("facts(); give([0], [0], slot=7)", "decode_error", "nonsense"),
        ("facts(); give([0, 'x'], [0])", "decode_error", "nonsense"),
        ("facts(); give([], [])", "decode_error", "nonsense"),
        ("facts(); give([-1], [0])", "decode_error", "nonsense"),
        ("facts(); give([1, 1], [0, 1])", "decode_error", "nonsense"),
        ("facts(); give([0, 1], [0])", "decode_error", "nonsense"),
        ("facts(); give([0], [float('nan')])", "decode_error", "nonsense"),
        ("facts(); give([0, 1], [1, 0])", "decode_error", "nonsense"),
        ("facts(); give([0], [1], until_s=0.5)", "decode_error", "nonsense"),
        ("facts(); link.send({'slot': 0, 'frame_index': [0], 'time_s': [0]})", "decode_error", "nonsense"),
        ("facts(); link.send({'end': None})", "decode_error", "nonsense"),
        ("facts(); link.send({'end': {'reason': None, 'message': None, 'duration_s': 1}})", "decode_error", "nonsense"),
        ("facts(fps='x')", "decode_error", "nonsense"),
        ("facts(rotation=7)", "decode_error", "nonsense"),
        ("link._socket.send(b'[' * 100_000)", "decode_error", "nonsense"),
        ("link.send({'alive': -1})", "decode_error", "nonsense"),
    ],
)
def test_every_way_to_fail_is_a_reason(
    video: Path, child: Callable[[str], Path], body: str, reason: str, words: str
) -> None:
    error = failure(video, child(body), stall_s=1 if words == "no frame" else 20)
    assert error.reason == reason
    assert words in error.message
    assert error.message.isprintable()


def test_flood_on_stderr_neither_blocks_nor_fills_anything(video: Path, child: Callable[[str], Path]) -> None:
    program = child("""
        try:
            for _ in range(1000):
                os.write(2, b"x" * 100_000)
        except OSError:
            pass
        os.abort()
    """)
    assert "SIGABRT" in failure(video, program).message


def test_child_cannot_take_the_shared_memory_away(video: Path, child: Callable[[str], Path]) -> None:
    program = child("""
        facts()
        try:
            os.ftruncate(request["ring_fd"], 0)
        except OSError as error:
            say(type(error).__name__)
        say("shrunk")
    """)
    assert "PermissionError" in failure(video, program).message


@pytest.mark.parametrize(
    "ending",
    [
        "os.abort()",
        "while True: pass",
        "link.send({'error': {'reason': 'x', 'message': 'm'}})",
        "link.send({'end': {'reason': 'x', 'message': None, 'duration_s': 1}})",
        "link.send({'end': {'reason': None, 'message': None, 'duration_s': -1}})",
        "frame(2)\ngive([3], [0])",
    ],
)
def test_what_goes_wrong_after_a_frame_is_a_partial_ending(
    video: Path, child: Callable[[str], Path], ending: str
) -> None:
    program = child(f"facts(); frame(); link.receive(); frame(1)\n{ending}")
    with open_video(video, DecodeOptions(stall_s=1), program) as reader:
        assert sum(len(batch) for batch in reader) in (2, 3)
        assert reader.ending is not None
        assert (reader.ending.status, reader.ending.frames) == ("partial", reader.frames)
        assert reader.ending.reason in ("decode_error", "decode_timeout")
        assert reader.ending.duration_s == pytest.approx(reader.frames / 25)


@pytest.mark.parametrize("decoder", ["pyav", "decord"])
def test_a_decoder_that_is_killed_in_mid_video_says_nothing_about_the_video(video: Path, decoder: str) -> None:
    options = DecodeOptions.model_validate({"decoder": decoder, "batch_frames": 4})
    with open_video(video, options) as reader:
        batches = iter(reader)
        next(batches)
        os.kill(reader.pid, signal.SIGKILL)
        with pytest.raises(DecoderKilled) as error:
            list(batches)
        assert reader.ending is None
    assert error.value.reason == "memory_limit"


def test_what_the_child_started_ends_with_it(video: Path, child: Callable[[str], Path]) -> None:
    program = child("""
        import subprocess
        process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        facts(container=str(process.pid)); frame()
        time.sleep(0.2)
        os._exit(1)
    """)
    with open_video(video, None, program) as reader:
        grandchild = psutil.Process(int(reader.facts.container))
        assert sum(len(batch) for batch in reader) == 1
    gone, _ = psutil.wait_procs([grandchild], timeout=2)
    assert gone or grandchild.status() == psutil.STATUS_ZOMBIE  # where nobody reaps orphans


def test_frames_that_were_decoded_before_an_error_are_given(video: Path, child: Callable[[str], Path]) -> None:
    program = child("""
        from ingest.decode.child import source
        decode = source.Source._decoded
        def breaks(self):
            for number, frame in enumerate(decode(self)):
                if number == 50:
                    raise MemoryError
                yield frame
        source.Source._decoded = breaks
        program.Link, program.confine = lambda fd: link, lambda request: None
        link.receive, receive = lambda: (setattr(link, "receive", receive), request)[1], link.receive
        program.main()
    """)
    with open_video(video, None, program) as reader:
        assert sum(len(batch) for batch in reader) == 50
        assert reader.ending is not None
        assert (reader.ending.status, reader.ending.reason) == ("partial", "memory_limit")


def test_file_of_another_user_is_read_through_the_open_descriptor_alone(
    video: Path, child: Callable[[str], Path]
) -> None:
    program = child("""
        import ctypes
        from ingest.decode.child import source
        from ingest.decode.child import easel
        os.fchmod(request["video_fd"], 0)
        ctypes.CDLL(None).setfsuid(65534)  # as a user namespace does, this takes root's power over files away
        program.Link, program.confine = lambda fd: link, lambda request: None
        link.receive, receive = lambda: (setattr(link, "receive", receive), request)[1], link.receive
        program.main()
    """)
    with open_video(video, None, program) as reader:
        assert sum(len(batch) for batch in reader) == 200


@pytest.mark.slow
def test_each_frame_extends_the_deadline(
    video: Path, child: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = child("""
        facts()
        for n in range(20):
            frame(n)
            time.sleep(0.25)
        link.send({"end": {"reason": None, "message": None, "duration_s": 1}})
        time.sleep(9)
    """)
    with open_video(video, DecodeOptions(start_s=3.5), program) as reader:
        assert sum(len(batch) for batch in reader) == 20
    monkeypatch.setattr(sandbox, "FRAME_ALLOWANCE_S", 0.01)
    with open_video(video, DecodeOptions(start_s=3.5), program) as reader:
        assert 0 < sum(len(batch) for batch in reader) < 20
        assert reader.ending is not None
        assert reader.ending.reason == "decode_timeout"
        assert reader.ending.message is not None
        assert "took more than" in reader.ending.message


def test_child_waits_for_a_slow_consumer(video: Path) -> None:
    with open_video(video, DecodeOptions(batch_frames=4)) as reader:
        for number, _ in enumerate(reader):
            if number == 1:
                time.sleep(0.5)
                decoder = psutil.Process(reader.pid)
                before = decoder.cpu_times()
                time.sleep(0.5)
                assert decoder.cpu_times() == before
                assert decoder.status() == psutil.STATUS_SLEEPING
        assert reader.frames == 200


def test_nothing_is_left_however_a_reader_ends(video: Path) -> None:
    def once(how: int) -> None:
        with open_video(video) as reader:
            for _ in reader:
                if how == 1:
                    return
                if how == 2:
                    raise KeyboardInterrupt

    def left() -> tuple[int, list[str], int]:
        # Only names that Python's shared memory would have: a Ray of others comes and goes in there, too.
        shared = [name for name in os.listdir("/dev/shm") if name.startswith("psm_")]
        return len(os.listdir("/proc/self/fd")), shared, len(psutil.Process().children())

    once(0)
    before = left()
    for number in range(15):
        with contextlib.suppress(KeyboardInterrupt):
            once(number % 3)
    assert left() == before


def test_child_dies_with_a_parent_that_is_killed(video: Path, child: Callable[[str], Path]) -> None:
    program = child("facts(); frame()\nwhile True: pass")  # spinning, as in native code: it will not notice by itself
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from ingest.decode.reader import open_video\n"
            "with open_video(Path(sys.argv[1]), None, Path(sys.argv[2])) as reader:\n"
            "    batch = next(iter(reader)); print(reader.pid, flush=True); time.sleep(60)",
            str(video),
            str(program),
        ],
        stdout=subprocess.PIPE,
    )
    assert parent.stdout is not None
    decoder = psutil.Process(int(parent.stdout.readline()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    gone, _ = psutil.wait_procs([decoder], timeout=2)
    assert gone or decoder.status() == psutil.STATUS_ZOMBIE  # where nobody reaps orphans


def test_decord_that_dies_or_hangs_is_followed_by_pyav(video: Path, child: Callable[[str], Path]) -> None:
    program = child("""
        if request["decoder"] == "decord":
            from ingest.decode.child import by_decord
            def dies(source, frames, easel, ring, request):
                for index, (time_s, frame) in zip(range(50), frames):
                    ring.put(index, time_s, lambda target: easel.draw(frame, target))
                os.abort()
            by_decord.give = dies
        link.receive = lambda: request
        program.Link = lambda fd: link
        program.confine = lambda request: setattr(link, "receive", lambda: Link.receive(link))
        program.main()
    """)
    with open_video(video, DecodeOptions(decoder="decord"), program) as reader:
        indices = np.concatenate([batch.frame_index for batch in reader])
        assert indices.tolist() == list(range(200))
        assert reader.decoder == "decord+pyav"
        assert reader.fallback == "decode_error: the decoder died of SIGABRT"
        assert reader.ending is not None
        assert reader.ending.status == "ok"
