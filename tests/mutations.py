"""Ways in which the files of a run, and cards, may be wrong: by accident, or by a stranger's hand.

A mutation takes a generator of random numbers, a run's folder and a folder that is nobody's
business, and changes files of the run; it returns what it did, for a report.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import struct
import tomllib
from pathlib import Path
from random import Random
from typing import Any

import tomli_w
import torch

from rlgrad import checkpoints

NUMBERS = [
    0, -1, 1, 7, 1 << 31, 1 << 62, (1 << 63) - 1, 1 << 63, 1 << 80, 10**400, 0.5, 1e-300, 1e308,
    float("inf"), float("-inf"), float("nan"), True, None,
]  # fmt: skip
TEXTS = [
    "", "..", "../../outside/file", "/etc/passwd", "a\0b", "x" * 100_000, "stranger_module",
    "stranger_module:Env-v0", "os:Env-v0", "os.system", "stable_baselines3.common.utils.os.system",
    "CartPole-v1", "${HOME}", "\u2028\ud7ff\U0001f600", "latest", "lin_1e999", "nan",
]  # fmt: skip
OTHERS: list[Any] = [[], {}, [[]], [1, 2], {"a": 1}, [None], ["a"], [1e308] * 50]
RAW = [
    b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"NaN", b"Infinity", b"-Infinity", b"1e999", b"9" * 5000,
    b"[" * 100_000, b'{"a":' * 100_000, b"a." * 20_000, b"\n", b'"', b"}", b"[[x]]\n", b"=",
    b"null",
    b"[a]\n" * 2, b"\\u0000", b" " * 200_000, b"1979-05-27T07:32:00Z", b"0x7fffffffffffffffff",
]  # fmt: skip
JSONS = ("run.json", "result.json", "metrics.jsonl")


def nasty(rng: Random) -> Any:
    """A value that a reader may not expect."""
    return rng.choice(rng.choice([NUMBERS, TEXTS, OTHERS]))


def bent(rng: Random, data: bytes) -> tuple[bytes, str]:
    """Bytes with a random fault that knows nothing of their meaning."""
    at, kind = rng.randrange(len(data) + 1), rng.randrange(7)
    if kind == 0:
        return data[:at], f"cut at {at}"
    if kind == 1:
        changed = bytearray(data)
        for _ in range(rng.choice([1, 1, 1, 8, 64])):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed), "bits flipped"
    if kind == 2:
        part = rng.choice(RAW)
        return data[:at] + part + data[at:], f"{part[:12]!r} put in at {at}"
    length = rng.randrange(1, 200)
    if kind == 3:
        return data[:at] + data[at + length :], f"{length} bytes left out at {at}"
    if kind == 4:
        return data[:at] + data[at : at + length] + data[at:], f"{length} bytes twice at {at}"
    if kind == 5:
        part = rng.randbytes(length)
        return data[:at] + part + data[at + length :], f"{length} bytes of noise at {at}"
    return data + b" " * (3 << 20), "3 MiB of spaces"


def replaced(rng: Random, table: Any) -> str:
    """Put a nasty value into nested data, or leave a key out, anywhere; says where."""
    name = "it"
    while True:
        keys = list(table) if isinstance(table, dict) else list(range(len(table)))
        if not keys:
            return "nothing"
        key = rng.choice(keys)
        name += f"[{key!r}]"[:40]
        inner = table[key]
        if isinstance(inner, (dict, list)) and inner and rng.random() < 0.8:
            table = inner
            continue
        if rng.random() < 0.15:
            del table[key]
            return f"{name} left out"
        if isinstance(table, dict) and rng.random() < 0.1:
            table[str(rng.choice(TEXTS))[:2000]] = nasty(rng)
            return f"a key beside {name}"
        table[key] = nasty(rng)
        return f"{name} = {str(table[key])[:30]!r}"


def _plain(path: Path) -> Path:
    """The path, if it is a plain file still: what was bent before may hang or never end."""
    about = path.lstat()
    if not stat.S_ISREG(about.st_mode) or about.st_size > 1 << 24 or about.st_nlink > 1:
        raise OSError("an earlier mutation was here")
    return path


def _copied(source: Path, path: Path) -> None:
    """Copy a file to a name, not to where a link of that name leads."""
    path.unlink(missing_ok=True)
    shutil.copy(source, path)


def bend_file(rng: Random, path: Path) -> str:
    data, what = bent(rng, path.read_bytes())
    path.write_bytes(data)
    return f"{path.name}: {what}"


def bend_json(rng: Random, path: Path) -> str:
    lines = path.read_text("utf-8").splitlines() if path.suffix == ".jsonl" else [path.read_text()]
    i = rng.randrange(len(lines))
    table = json.loads(lines[i])
    what = replaced(rng, table)
    lines[i] = json.dumps(table)
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return f"{path.name}: {what}"


def bend_toml(rng: Random, path: Path) -> str:
    table = tomllib.loads(path.read_text("utf-8"))
    what = replaced(rng, table)
    try:
        path.write_text(tomli_w.dumps(table), "utf-8")
    except (TypeError, ValueError):  # TOML has no null
        return bend_file(rng, path)
    return f"{path.name}: {what}"


def _signed(path: Path, tensors: dict[str, Any], counters: dict[str, Any]) -> None:
    """A checkpoint with a checksum that is right: a stranger can count, too."""
    from safetensors.torch import save

    text = json.dumps(counters)
    tensors = {name: x.clone().contiguous() for name, x in tensors.items()}
    checksum = checkpoints._checksum(tensors, text)
    metadata = {"format": "1", "counters": text, "checksum": checksum}
    path.write_bytes(save(tensors, metadata=metadata))


def bend_counters(rng: Random, path: Path) -> str:
    tensors, counters = checkpoints.read(path)
    what = replaced(rng, counters)
    _signed(path, tensors, counters)
    return f"{path.name}: counters {what}"


def bend_tensor(rng: Random, path: Path) -> str:
    tensors, counters = checkpoints.read(path)
    name, kind = rng.choice(sorted(tensors)), rng.randrange(9)
    x = tensors[name]
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        tensors[rng.choice(TEXTS)] = x
    elif kind == 2:
        tensors[name] = x.to(rng.choice([torch.float64, torch.int64, torch.uint8, torch.bool]))
    elif kind == 3:
        tensors[name] = x.reshape(-1)[: rng.randrange(x.numel() + 1)]
    elif kind == 4:
        tensors[name] = torch.cat([x.reshape(-1)] * 3)
    elif kind == 5:
        tensors[name] = torch.zeros(
            rng.choice([(), (0,), (1, 1, 1, 1), (0, 1 << 40)]), dtype=x.dtype
        )
    elif kind == 6 and x.is_floating_point():
        odd = rng.choice([float("nan"), float("inf"), -1e38])
        tensors[name] = x.clone().reshape(-1).index_fill_(0, torch.tensor([0]), odd).view(x.shape)
    elif kind == 7:
        other = rng.choice([-1, 1 << 31, (1 << 63) - 1, 3])
        tensors[name] = torch.full_like(x, other if not x.is_floating_point() else 1e30)
    else:
        tensors[name] = -x if x.dtype != torch.bool else ~x
    _signed(path, tensors, counters)
    return f"{path.name}: tensor {name} in way {kind}"


def bend_header(rng: Random, path: Path) -> str:
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8].ljust(8, b"\0"))  # another mutation may have cut it
    if rng.random() < 0.2:
        length = rng.choice([0, 1, length - 1, length + 1, 1 << 40, (1 << 64) - 1])
        path.write_bytes(struct.pack("<Q", length) + data[8:])
        return f"{path.name}: header of {length} bytes"
    header, rest = json.loads(data[8 : 8 + length]), data[8 + length :]
    if rng.random() < 0.2:
        header["__metadata__"]["format"] = rng.choice(["2", "1.5", "", "-1", "None"])
        what = "another format"
    else:
        what = replaced(rng, header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + rest)
    return f"{path.name}: header {what}"


def _fill(path: Path, outside: Path, kind: int) -> str:
    """Something else where a file or folder is expected."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if kind == 0:
        return "is missing"
    if kind == 1:
        path.mkdir()
        return "is a folder"
    if kind == 2:
        os.mkfifo(path)
        return "is a pipe"
    if kind == 3:
        with path.open("wb") as file:
            file.truncate(1 << 42)
        return "is 4 TiB"
    if kind == 4:
        os.link(outside / "file", path)
        return "is a second name of a file outside"
    if kind == 5:
        path.write_bytes(b"")
        return "is empty"
    goals = [outside / "file", outside, outside / "new", path, Path("/dev/zero"), Path("/dev/tty")]
    path.symlink_to(goals[kind - 6])
    return f"is a link to {goals[kind - 6]}"


def swap_kind(rng: Random, run: Path, outside: Path) -> str:
    names = [path.name for path in run.iterdir()] + ["lock", "checkpoints", "metrics.jsonl"]
    inner = [f"checkpoints/{path.name}" for path in (run / "checkpoints").iterdir()]
    pid = os.getpid()
    halves = [f".card.toml.{pid}", f".run.json.{pid}", f".result.json.{pid}", ".card.toml.1"]
    name = rng.choice(rng.choice([sorted(names), sorted(inner), halves]))
    return f"{name} {_fill(run / name, outside, rng.randrange(12))}"


def odd_name(rng: Random, run: Path, outside: Path) -> str:
    (checkpoint, *_) = sorted((run / "checkpoints").glob("step-*"))
    seed = next(run.glob("seed-*"))
    name = rng.choice([
        checkpoint.parent / "step-²²²²²²²²²²²².safetensors",
        checkpoint.parent / "step-.safetensors",
        checkpoint.parent / "step--00000000001.safetensors",
        checkpoint.parent / "step-999999999999.safetensors",
        checkpoint.parent / f"step-{'9' * 200}.safetensors", seed / "events.out.tfevents.²",
        seed / f"events.out.tfevents.{'9' * 200}.a.1", seed / "events.out.tfevents.",
        checkpoint.parent / f".step-000000000096.safetensors.{os.getpid()}",
    ])  # fmt: skip
    if rng.random() < 0.5:
        _copied(_plain(checkpoint), name)
        return f"{name.name} is there"
    return f"{name.name} {_fill(name, outside, rng.randrange(12))}"


def other_run(rng: Random, run: Path, others: list[Path]) -> str:
    """A file of another run in the place of this one's."""
    other = rng.choice(others)
    name = rng.choice(["card.toml", "run.json", "result.json", "metrics.jsonl", "checkpoints"])
    if name == "checkpoints":
        shutil.rmtree(run / name)
        shutil.copytree(other / name, run / name)
    else:
        _copied(other / name, run / name)
    return f"{name} of {other.name}"


def mutate(rng: Random, run: Path, outside: Path, others: list[Path]) -> str:
    """Change a run's folder in one way."""
    saved = sorted((run / "checkpoints").glob("*.safetensors"))
    checkpoint = saved[-1] if rng.random() < 0.6 else rng.choice(saved)
    kind = rng.random()
    if kind < 0.14:
        return bend_toml(rng, _plain(run / "card.toml"))
    if kind < 0.32:
        return bend_json(rng, _plain(run / rng.choice(JSONS)))
    if kind < 0.46:
        return bend_file(rng, _plain(run / rng.choice(["card.toml", *JSONS])))
    if kind < 0.76:
        bend = rng.choice([bend_file, bend_counters, bend_counters, bend_tensor, bend_header])
        return bend(rng, _plain(checkpoint))
    if kind < 0.90:
        return swap_kind(rng, run, outside)
    return odd_name(rng, run, outside) if kind < 0.95 else other_run(rng, run, others)
