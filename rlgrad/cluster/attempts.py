"""One task on its way through the cluster: where it stands, and what is done when it is lost."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlgrad.cluster.mirror import Files, Inbox

RETRIES = 3  # times that a task goes on elsewhere, after its worker or node was lost


class Attempt:
    """A task, over all its attempts.

    Args:
        number: of the task.
        job: ``label``, ``module``, ``arguments``, ``versions``, ``depth``, ``peer``, ``gpus``;
            ``folder`` that its files are in, or ``parent`` of a new one.
    """

    def __init__(self, number: int, job: Mapping[str, Any]) -> None:
        self.number, self.job = number, job
        folder = None if job["folder"] is None else Path(job["folder"])
        self.inbox = Inbox(folder, Path(job["parent"]))
        self.tries, self.began, self.node = 0, False, ""
        self.resources = {"CPU": 1.0, **({"GPU": float(job["gpus"])} if job["gpus"] else {})}

    def sent(self) -> tuple[str, dict[str, bytes]]:
        """What its next attempt is told: the task as JSON, and files to go on from."""
        if self.job["peer"] and self.tries:  # nothing to go on from is stored of peers
            self.inbox.forget()
        files = self.inbox.files()
        told = ("module", "arguments", "versions", "depth", "peer", "gpus")
        inside = ""
        if self.inbox.folder is not None:
            inside = "/".join(self.inbox.folder.absolute().parts[-self.job["depth"] :])
        return json.dumps({**{key: self.job[key] for key in told}, "inside": inside}), files

    def take(self, text: str, files: Files) -> dict[str, Any]:
        """Keep files, and read news, in which folders of the node become the driver's."""
        self.inbox.take(files)
        folder = json.dumps(str(self.inbox.folder))[1:-1]
        news: dict[str, Any] = json.loads(text.replace("{RUN}", folder))
        if "node" in news:
            self.began, self.node = True, news["node"]
        if "error" in news and "died" not in news:
            news["error"] = f"node {self.node}: {news['error']}"
        return news

    def lost(self, why: str) -> dict[str, Any]:
        """News of a worker or node that is gone: goes on elsewhere, or was lost too often."""
        self.tries += 1
        self.began = False
        where = f" on node {self.node}" if self.node else ""
        kept = self._kept()
        if self.tries > RETRIES:
            return {"error": f"lost {self.tries} times, the last{where}: {why}; {kept}"}
        again = f"retry {self.tries} of {RETRIES}"
        return {"say": f"{self.job['label']}: lost{where}: {why}; {kept}; {again}"}

    def _kept(self) -> str:
        """What the driver has of it, in words."""
        folder = self.inbox.folder
        if folder is None or self.job["peer"]:
            return "nothing of it is kept"
        steps = sorted((folder / "checkpoints").glob("step-*.safetensors"))
        return f"{steps[-1].name if steps else 'no checkpoint'} is kept in {folder}"
