"""Event files as the real TensorBoard reads them."""

from __future__ import annotations

import io
import random

import pytest
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard_server import serving

from rlgrad.framing import Frames
from rlgrad.log import EventFile

# One pixel, 1 x 1, red.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


@pytest.mark.parametrize("length", [*range(20), 255, 256, 257, 258, 259, 260, 700, 3000])
def test_records_are_framed_as_tensorboard_frames_them(length):
    ours, theirs, data = io.BytesIO(), io.BytesIO(), random.Random(length).randbytes(length)
    Frames(ours).write(data)
    RecordWriter(theirs).write(data)
    assert ours.getvalue() == theirs.getvalue()
    assert Frames(ours).checksum(b"123456789") == 0xE3069283  # the published check value


@pytest.mark.slow
def test_tensorboard_shows_scalars_images_and_metrics(tmp_path):
    logdir = tmp_path / "logs"
    for number, agent in enumerate(("relax", "reinforce")):
        events = EventFile(logdir / agent)
        events.scalars(10, {"compare/iqm": 1.5 + number}, wall_time=1000.0)
        events.scalars(20, {"compare/iqm": 2.5 + number}, wall_time=1001.0)
        events.image("compare/curves", PIXEL, step=7)
        events.hparams(agent, {"agent": agent, "lr": 0.5}, {"final/iqm": 3.5 + number})
        events.close()
    with serving(logdir) as get:
        tags = get("/data/plugin/scalars/tags")
        assert {run: set(of) for run, of in tags.items()} == {
            run: {"compare/iqm", "final/iqm"} for run in ("relax", "reinforce")
        }
        of_relax = {"run": "relax", "tag": "compare/iqm"}
        points = get("/data/plugin/scalars/scalars", query=of_relax)
        assert points == [[1000.0, 10, 1.5], [1001.0, 20, 2.5]]

        assert set(get("/data/plugin/images/tags")["relax"]) == {"compare/curves"}
        of_image = {**of_relax, "tag": "compare/curves", "sample": "0"}
        (image,) = get("/data/plugin/images/images", query=of_image)
        assert image["step"] == 7
        address = f"/data/plugin/images/individualImage?{image['query']}"
        assert get(address, raw=True) == PIXEL

        experiment = get("/data/plugin/hparams/experiment", {"experimentName": ""})
        assert {each["name"] for each in experiment["hparamInfos"]} == {"agent", "lr"}
        metrics = [each["name"] for each in experiment["metricInfos"]]
        assert {(each["group"], each["tag"]) for each in metrics} >= {("", "final/iqm")}
        asked = {
            "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_RUNNING", "STATUS_SUCCESS"],
            "colParams": [{"metric": name} for name in metrics],
            "startIndex": 0,
            "sliceSize": 10,
        }
        groups = get("/data/plugin/hparams/session_groups", asked)["sessionGroups"]
        found = {
            group["hparams"]["agent"]: {
                each["name"]["tag"]: each["value"] for each in group["metricValues"]
            }
            for group in groups
        }
        assert found["relax"]["final/iqm"] == 3.5
        assert found["reinforce"]["final/iqm"] == 4.5


def test_a_picture_is_a_png(tmp_path):
    events = EventFile(tmp_path)
    with pytest.raises(ValueError, match="no PNG"):
        events.image("curves", b"<svg>")
    events.close()
