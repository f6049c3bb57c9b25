"""Where frames go: a video, a GIF or a folder of pictures, whole or not at all."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import warnings
from abc import abstractmethod
from pathlib import Path

from PIL import Image

from rlgrad.errors import UsageError
from rlgrad.output import check_writable
from rlgrad.watching.playing import PIP, Picture
from rlgrad.watching.sink import Sink

CLIP = 128  # frames held in memory
# Gymnasium's recorder writes int(duration x rate) frames, where the duration is a sum of 1 / rate
# in floating point: at 30 per second six frames come out as five. With a power of two the sum is
# exact; the right rate is given when clips are joined.
RATE = 64
KINDS = "expected a name that ends in .mp4 or .gif, or one without an ending for a folder of PNGs"


class Recorder(Sink):
    """Writes frames; what is half done is removed where it is left with an error.

    Args:
        path: of the result.
        fps: frames per second.
    """

    def __init__(self, path: Path, fps: int) -> None:
        super().__init__(fps)
        self.path = path

    def __enter__(self) -> Recorder:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # In the same folder, so that the last step is a mere renaming.
        self.beside = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.", dir=self.path.parent))
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            if kind is None and self.count:
                self.finish()
        finally:
            shutil.rmtree(self.beside, ignore_errors=True)

    @abstractmethod
    def finish(self) -> None:
        """Write the result."""


class Video(Recorder):
    """An mp4 by Gymnasium's own recorder, clip by clip, joined without coding them again."""

    def __init__(self, path: Path, fps: int) -> None:
        super().__init__(path, fps)
        self.frames: list[Picture] = []
        self.clips = 0

    def add(self, frame: Picture) -> bool:
        """Encode a clip once it is long enough."""
        self.frames.append(frame)
        if len(self.frames) == CLIP:
            self._clip()
        return True

    def _clip(self) -> None:
        from gymnasium.utils.save_video import save_video

        with warnings.catch_warnings():  # its encoder's pipes are closed by the garbage collector
            warnings.simplefilter("ignore", ResourceWarning)
            save_video(
                self.frames, str(self.beside), lambda episode: True, name_prefix="clip",
                episode_index=self.clips, fps=RATE,
            )  # fmt: skip
        self.frames = []
        self.clips += 1

    def finish(self) -> None:
        """Join the clips."""
        from imageio_ffmpeg import get_ffmpeg_exe

        if self.frames:
            self._clip()
        names = [f"clip-episode-{i}.mp4" for i in range(self.clips)]
        (self.beside / "clips.txt").write_text("".join(f"file '{name}'\n" for name in names))
        slower = RATE / self.fps
        command = [
            get_ffmpeg_exe(), "-v", "error", "-f", "concat", "-i", "clips.txt", "-c", "copy",
            "-bsf:v", f"setts=pts=PTS*{slower}:dts=DTS*{slower}:duration=DURATION*{slower}",
            "-movflags", "+faststart", "whole.mp4",
        ]  # fmt: skip
        done = subprocess.run(
            command, cwd=self.beside, stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        if done.returncode:
            text = " ".join(done.stderr.split())[-200:]
            raise UsageError(f"cannot write {self.path}: ffmpeg says: {text}")
        (self.beside / "whole.mp4").replace(self.path)


class Files(Recorder):
    """Frames that lie in files, one PNG each, until the last."""

    def add(self, frame: Picture) -> bool:
        """Write it."""
        Image.fromarray(frame).save(self.beside / f"frame-{self.count:06d}.png")
        return True


class Pictures(Files):
    """A new folder of PNGs, one per state."""

    holds = False

    def finish(self) -> None:
        """Give the folder its name."""
        self.beside.chmod(0o755)
        self.beside.rename(self.path)


class Gif(Files):
    """An animated GIF that repeats, with a palette of its own for each frame."""

    def finish(self) -> None:
        """Encode all frames."""
        files = sorted(self.beside.glob("frame-*.png"))
        whole = self.beside / "whole.gif"
        # Hundredths of a second; browsers slow down what is shorter than two.
        duration = 10 * max(2, round(100 / self.fps))
        with Image.open(files[0]) as first:
            rest = map(_opened, files[1:])
            first.save(whole, save_all=True, append_images=rest, duration=duration, loop=0)
        whole.replace(self.path)


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.copy()


def kind_of(name: str) -> type[Recorder]:
    """What writes a file or folder of that name, checked before anything is loaded or played.

    Raises:
        UsageError: for a name of no known kind, one that cannot be written, or an encoder that
            is not installed.
    """
    path = Path(name)
    kind = {".mp4": Video, ".gif": Gif, "": Pictures}.get(path.suffix.lower())
    if kind is None or not path.name:
        raise UsageError(f"got --record {name!r}; {KINDS}")
    if path.is_dir() and kind is not Pictures:
        raise UsageError(f"got --record {name!r}, which is a folder; {KINDS}")
    if path.exists() and kind is Pictures:
        raise UsageError(f"--record {name} exists; name a new folder")
    check_writable(path, "--record")
    if kind is Video:
        _need_encoder()
    return kind


def _need_encoder() -> None:
    try:
        import imageio_ffmpeg  # noqa: F401
        import moviepy  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"an mp4 needs an encoder, and {error.name} is not installed: {PIP}; or record a .gif"
        ) from None
