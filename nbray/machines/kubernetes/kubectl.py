"""kubectl, as a command that is run: its words, its errors, and a stream of what changes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbray.machines.hosts import HostError
from nbray.machines.kubernetes.cluster_file import KubernetesProvider
from nbray.machines.ssh import Done, run

_QUICK_S = 60.0
_MOST_KEPT = 1 << 30  # a thousand pods are tens of megabytes
_POD_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class Kubectl:
    """kubectl for one cluster's context and namespace.

    Attributes:
        namespace: in which all is.
    """

    def __init__(self, program: str, context: str, namespace: str) -> None:
        self._words = [os.path.expanduser(program)]
        if context:
            self._words += ["--context", context]
        self.namespace = namespace
        self._words += ["--namespace", namespace]

    @classmethod
    async def of(cls, given: KubernetesProvider) -> Kubectl:
        """For a file's provider.

        Raises:
            HostError: there is no kubectl, or no such context.
        """
        namespace = given.namespace
        if not namespace:
            view = ["config", "view", "--minify", "-o", "json"]
            words = [os.path.expanduser(given.kubectl)]
            words += ["--context", given.context] if given.context else []
            done = await _run([*words, *view], b"", _QUICK_S)
            if done.code and given.context:
                raise HostError("reading kubectl's configuration", _last(done), "kubectl config")
            namespace = _namespace_of(done.output) or _own_namespace() or "default"
        return cls(given.kubectl, given.context, namespace)

    def command(self, *words: str) -> list[str]:
        """A command line."""
        return [*self._words, *words]

    async def do(
        self, doing: str, *words: str, stdin: bytes = b"", timeout_s: float = _QUICK_S
    ) -> str:
        """Run it; what it wrote.

        Raises:
            HostError: it failed, or took longer.
        """
        try:
            done = await _run(self.command(*words), stdin, timeout_s)
        except TimeoutError:
            raise HostError(doing, f"kubectl was not done in {timeout_s:.0f} s") from None
        if done.code:
            shown = " ".join(["kubectl", *words])
            raise HostError(doing, _last(done), shown, done.lines)
        return done.output

    async def get(self, doing: str, *words: str) -> Any:
        """What ``kubectl get`` finds, as it is in JSON; None if it finds nothing.

        Raises:
            HostError: it failed.
        """
        said = await self.do(doing, "get", *words, "--ignore-not-found", "-o", "json")
        try:
            return json.loads(said) if said.strip() else None
        except ValueError:
            raise HostError(doing, f"kubectl said {said.strip()[-300:]!r}") from None

    async def watch(self, *words: str) -> AsyncIterator[dict[str, Any]]:
        """The objects that ``kubectl get --watch`` finds, first those that are there, then each
        that changes, with ``"gone": True`` where it was removed. It ends when the connection does.
        """
        process = await asyncio.create_subprocess_exec(
            *self.command("get", *words, "--watch", "--output-watch-events", "-o", "json"),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        assert process.stdout is not None
        decoder, text = json.JSONDecoder(), ""
        try:
            while part := await process.stdout.read(1 << 16):
                text += part.decode(errors="replace")
                while text := text.lstrip():
                    try:
                        event, end = decoder.raw_decode(text)
                    except ValueError:
                        break  # the rest is to come
                    text = text[end:]
                    if event.get("type") in ("ADDED", "MODIFIED", "DELETED"):
                        yield {**event["object"], "gone": event["type"] == "DELETED"}
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


async def _run(command: Sequence[str], stdin: bytes, timeout_s: float) -> Done:
    try:
        return await run(command, stdin=stdin, timeout_s=timeout_s, most_kept=_MOST_KEPT)
    except FileNotFoundError:
        raise HostError(
            "running kubectl", f"this machine has no {command[0]}: install it, or name it by "
            "provider.kubectl",
        ) from None  # fmt: skip


def _last(done: Done) -> str:
    return done.lines[-1] if done.lines else f"kubectl ended with exit code {done.code}"


def _namespace_of(view: str) -> str:
    try:
        contexts = json.loads(view).get("contexts") or [{}]
    except ValueError:
        return ""
    context: Mapping[str, Any] = contexts[0].get("context") or {}
    return str(context.get("namespace") or "")


def _own_namespace() -> str:
    try:
        return _POD_NAMESPACE.read_text().strip()
    except OSError:
        return ""
