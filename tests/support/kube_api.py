"""A Kubernetes API in memory, as far as a launcher and an autoscaler use it, for the real kubectl.

Lists (in pages), gets, creates, patches, replaces with 409 on an old resourceVersion, deletes with
grace and owners, label and field selectors, watches from a resourceVersion, status, logs; exec, cp
and port-forward (`kube_exec`, `kube_forward`). What is
created is checked against Kubernetes' own strict schemas where those are installed. StatefulSets
and Deployments make their pods. There is no scheduler and no kubelet: a test writes the status of
pods itself, or brings a kubelet (`kubelet`). Faults are asked for by `KubeApi.refuse`, `away` and
`drop_watches`.
"""

from __future__ import annotations

import asyncio
import copy
import ctypes
import datetime
import json
import random
import socket
import ssl
import string
import threading
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import tornado.httpserver
import tornado.iostream
import tornado.netutil
import tornado.web

from support import kube_exec, kube_forward

Key = tuple[str, str, str, str]
Item = dict[str, Any]
T = TypeVar("T")
_VERSION = "1.32"


@cache
def _validator() -> Callable[..., object] | None:
    try:
        from kubernetes_validate import validate  # it takes a second to import
    except ImportError:  # what is created is not checked then
        return None
    return validate  # type: ignore[no-any-return]


_RBAC = "rbac.authorization.k8s.io/v1"
BUILT_IN = [  # group/version, plural, kind, namespaced, short
    ("v1", "pods", "Pod", True, "po"),
    ("v1", "services", "Service", True, "svc"),
    ("v1", "secrets", "Secret", True, ""),
    ("v1", "configmaps", "ConfigMap", True, "cm"),
    ("v1", "events", "Event", True, "ev"),
    ("v1", "namespaces", "Namespace", False, "ns"),
    ("v1", "serviceaccounts", "ServiceAccount", True, "sa"),
    ("v1", "persistentvolumeclaims", "PersistentVolumeClaim", True, "pvc"),
    ("apps/v1", "deployments", "Deployment", True, "deploy"),
    ("apps/v1", "statefulsets", "StatefulSet", True, "sts"),
    ("networking.k8s.io/v1", "networkpolicies", "NetworkPolicy", True, "netpol"),
    (_RBAC, "roles", "Role", True, ""),
    (_RBAC, "rolebindings", "RoleBinding", True, ""),
]


class Fault(Exception):
    def __init__(self, code: int, reason: str, message: str) -> None:
        self.code, self.reason, self.message = code, reason, message


class Store:
    """All objects, and what happened to them."""

    def __init__(self) -> None:
        self.types = {(gv, plural): (kind, spaced, short) for gv, plural, kind, spaced, short
                      in BUILT_IN}  # fmt: skip
        self.objects: dict[Key, Item] = {}
        self.version = 0
        self.history: list[tuple[int, str, Key, Item]] = []
        self.news = asyncio.Condition()

    async def keep(self, what: str, key: Key, item: Item) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        if what == "DELETED":
            self.objects.pop(key, None)
        else:
            self.objects[key] = item
        self.history.append((self.version, what, key, copy.deepcopy(item)))
        async with self.news:
            self.news.notify_all()
        if what == "DELETED":
            uid = item["metadata"]["uid"]
            for other, owned in list(self.objects.items()):
                owners = owned["metadata"].get("ownerReferences", ())
                if any(owner.get("uid") == uid for owner in owners):
                    await self.delete(other)

    async def touch(self) -> None:
        """Have everybody look again."""
        self.version += 1
        self.history.append((self.version, "", ("", "", "", ""), {}))
        async with self.news:
            self.news.notify_all()

    async def add(self, key: Key, item: Item) -> Item:
        meta = item.setdefault("metadata", {})
        meta.setdefault("name", key[3])
        if key[2]:
            meta["namespace"] = key[2]
        meta["uid"], meta["creationTimestamp"] = str(uuid.uuid4()), _now()
        meta["generation"] = 1
        if key in self.objects:
            raise Fault(409, "AlreadyExists", f'{key[1]} "{key[3]}" already exists')
        if key[1] == "pods":
            item["status"] = {"phase": "Pending", "conditions": []}
        if key[1] == "secrets":
            plain = item.pop("stringData", {})
            item["data"] = item.get("data", {}) | {
                name: _base64(text) for name, text in plain.items()
            }
        await self.keep("ADDED", key, item)
        return item

    async def delete(self, key: Key, grace: int = 30) -> Item:
        item = dict(self.objects[key])
        running = key[1] == "pods" and item["status"].get("phase") == "Running"
        if running and grace:
            ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=grace)
            item["metadata"] = {
                **item["metadata"], "deletionTimestamp": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
                "deletionGracePeriodSeconds": grace,
            }  # fmt: skip
            await self.keep("MODIFIED", key, item)  # the kubelet ends it, and deletes it
        else:
            await self.keep("DELETED", key, item)
        return item

    def pod(self, name: str) -> Item:
        return next(one for key, one in self.objects.items() if key[1::2] == ("pods", name))


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _base64(text: str) -> str:
    import base64

    return base64.b64encode(text.encode()).decode()


def selected(item: Item, selector: str) -> bool:
    labels = item["metadata"].get("labels") or {}
    for part in filter(None, selector.split(",")):
        if "!=" in part:
            name, _, value = part.partition("!=")
            if labels.get(name.strip()) == value.strip():
                return False
        elif "=" in part:
            name, _, value = part.replace("==", "=").partition("=")
            if labels.get(name.strip()) != value.strip():
                return False
        elif part.strip() not in labels:
            return False
    return True


def fits(item: Item, selector: str) -> bool:
    """A field selector: equality of a few fields."""
    for part in filter(None, selector.split(",")):
        path, _, value = part.replace("==", "=").partition("=")
        found: Any = item
        for name in path.split("."):
            found = (found or {}).get(name)
        if found != value:
            return False
    return True


def merged(old: Any, new: Any) -> Any:
    """A patch laid over what is there, as kubectl makes them: of lists, named things by name."""
    if isinstance(old, list) and isinstance(new, list) and (by := _merge_key([*old, *new])):
        mine = {one[by]: one for one in old}
        for one in new:
            if one.get("$patch") == "delete":
                mine.pop(one[by], None)
            else:
                mine[one[by]] = merged(mine.get(one[by], {}), one)
        return list(mine.values())
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    out = dict(old)
    for key, value in new.items():
        if value is None:
            out.pop(key, None)
        elif not key.startswith("$"):
            out[key] = merged(out.get(key, {} if isinstance(value, dict) else None), value)
    return out


def _merge_key(items: list[Any]) -> str:
    """By which things of a list are told apart, as Kubernetes has it for mounts and all others."""
    return next(
        (
            key for key in ("mountPath", "name")
            if all(isinstance(one, dict) and key in one for one in items)
        ),
        "",
    )  # fmt: skip


class Handler(tornado.web.RequestHandler):
    def initialize(self, api: KubeApi) -> None:
        self.api, self.store = api, api.store

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        fault = error if isinstance(error, Fault) else Fault(status_code, self._reason, str(error))
        self.set_status(fault.code)
        told = {"message": fault.message, "reason": fault.reason, "code": fault.code}
        self.json({"kind": "Status", "apiVersion": "v1", "status": "Failure", **told})

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        if not isinstance(value, Fault):
            super().log_exception(typ, value, tb)

    def json(self, value: Any) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(value))

    def prepare(self) -> None:
        self.api.requests.append(f"{self.request.method} {self.request.path}")
        if self.api.token:
            given = self.request.headers.get("Authorization", "")
            if given != f"Bearer {self.api.token}":
                raise Fault(401, "Unauthorized", "Unauthorized")
        for index, (method, path, fault, times) in enumerate(self.api.refusals):
            if self.request.method == method and path in self.request.path and times:
                self.api.refusals[index] = (method, path, fault, times - 1)
                raise fault

    def place(self) -> None:
        parts = self.request.path.strip("/").split("/")
        self.gv = parts[1] if parts[0] == "api" else "/".join(parts[1:3])
        rest = parts[2:] if parts[0] == "api" else parts[3:]
        self.namespace = ""
        if len(rest) > 2 and rest[0] == "namespaces":
            self.namespace, rest = rest[1], rest[2:]
        self.plural, self.name, self.sub = ([*rest, "", "", ""])[:3]
        if (self.gv, self.plural) not in self.store.types:
            raise Fault(404, "NotFound", "the server could not find the requested resource")
        self.kind = self.store.types[self.gv, self.plural][0]
        self.key: Key = (self.gv, self.plural, self.namespace, self.name)

    def found(self) -> Item:
        if self.key not in self.store.objects:
            raise Fault(404, "NotFound", f'{self.plural} "{self.name}" not found')
        return self.store.objects[self.key]

    async def get(self) -> None:
        path = self.request.path.strip("/")
        types = self.store.types
        if path == "version":
            self.json({"major": "1", "minor": "32", "gitVersion": f"v{_VERSION}.0+memory"})
        elif path == "api":
            self.json({"kind": "APIVersions", "versions": ["v1"]})
        elif path == "apis":
            groups = sorted({gv for gv, _ in types if "/" in gv})
            self.json({"kind": "APIGroupList", "apiVersion": "v1", "groups": [
                {"name": gv.split("/")[0],
                 "versions": [{"groupVersion": gv, "version": gv.split("/")[1]}],
                 "preferredVersion": {"groupVersion": gv, "version": gv.split("/")[1]}}
                for gv in groups]})  # fmt: skip
        elif len(parts := path.split("/")) == (2 if parts[0] == "api" else 3):
            gv = "/".join(parts[1:])
            verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
            self.json({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv,
                       "resources": [
                {"name": plural, "singularName": kind.lower(), "namespaced": namespaced,
                 "kind": kind, "shortNames": [short] if short else [], "verbs": verbs}
                for (group, plural), (kind, namespaced, short) in types.items()
                if group == gv]})  # fmt: skip
        else:
            self.place()
            if self.sub == "log":
                self.found()
                self.finish(self.api.logs.get(self.name, ""))
            elif self.name:
                self.json(self.found())
            elif self.get_argument("watch", "") in ("1", "true"):
                await self.watch()
            else:
                self.list_page()

    def list_page(self) -> None:
        items = [item for key, item in self.store.objects.items() if self.matches(key, item)]
        first = int(self.get_argument("continue", "") or 0)
        limit = min(int(self.get_argument("limit", "") or 1 << 30), self.api.largest_page)
        meta: Item = {"resourceVersion": str(self.store.version)}
        if first + limit < len(items):
            meta["continue"] = str(first + limit)
        self.json({"kind": f"{self.kind}List", "apiVersion": self.gv, "metadata": meta,
                   "items": items[first : first + limit]})  # fmt: skip

    def matches(self, key: Key, item: Item) -> bool:
        return (
            key[:2] == (self.gv, self.plural)
            and self.namespace in ("", key[2])
            and fits(item, self.get_argument("fieldSelector", ""))
            and selected(item, self.get_argument("labelSelector", ""))
        )

    async def watch(self) -> None:
        at = int(self.get_argument("resourceVersion", "") or self.store.version)
        if at == 0:  # from any: first all that there is
            at = self.store.version
            for key, item in self.store.objects.items():
                if self.matches(key, item):
                    self.write(json.dumps({"type": "ADDED", "object": item}) + "\n")
        dropped = self.api.dropped
        self.set_header("Content-Type", "application/json")
        try:
            await self.flush()
            while self.api.dropped == dropped:
                for version, what, key, item in [h for h in self.store.history if h[0] > at]:
                    at = version
                    if self.matches(key, item):
                        self.write(json.dumps({"type": what, "object": item}) + "\n")
                await self.flush()
                async with self.store.news:
                    if self.store.version <= at:
                        await self.store.news.wait()
        except tornado.iostream.StreamClosedError:
            return

    def checked(self, item: Item) -> None:
        if item.get("kind") != self.kind:
            message = f"the object provided is a {item.get('kind')}, not a {self.kind}"
            raise Fault(400, "BadRequest", message)
        validate = _validator()
        if validate is not None:
            try:
                validate(item, _VERSION, strict=True)
            except Exception as error:  # its errors have no class in common
                told = getattr(error, "message", error)
                where = ".".join(map(str, getattr(error, "path", ())))
                message = f"{self.kind} is invalid: {told} at {where}"
                raise Fault(422, "Invalid", message) from error

    async def post(self) -> None:
        self.place()
        item = json.loads(self.request.body)
        self.checked(item)
        meta = item.setdefault("metadata", {})
        if not meta.get("name"):
            tail = "".join(random.choices(string.ascii_lowercase + string.digits, k=5))
            meta["name"] = meta["generateName"] + tail
        namespaced = self.store.types[self.gv, self.plural][1]
        namespace = (self.namespace or meta.get("namespace") or "default") if namespaced else ""
        made = await self.store.add((self.gv, self.plural, namespace, meta["name"]), item)
        self.set_status(201)
        self.json(made)

    async def put(self) -> None:
        self.place()
        old, item = self.found(), json.loads(self.request.body)
        given = item["metadata"].get("resourceVersion")
        if given and given != old["metadata"]["resourceVersion"]:
            message = f'Operation cannot be fulfilled on {self.plural} "{self.name}": modified'
            raise Fault(409, "Conflict", message)
        if self.sub == "status":
            item = {**old, "status": item.get("status", {})}
        await self.changed(old, item)

    async def patch(self) -> None:
        self.place()
        old, change = self.found(), json.loads(self.request.body)
        if self.sub == "status":
            change = {"status": change.get("status", {})}
        await self.changed(old, merged(old, change))

    async def changed(self, old: Item, item: Item) -> None:
        fixed = {name: old["metadata"][name] for name in ("uid", "creationTimestamp")}
        generation = old["metadata"]["generation"] + (old.get("spec") != item.get("spec"))
        item["metadata"] = {**item["metadata"], **fixed, "generation": generation}
        if self.get_argument("dryRun", "") != "All":
            await self.store.keep("MODIFIED", self.key, item)
        self.json(item)

    async def delete(self) -> None:
        self.place()
        if not self.name:
            for key, item in list(self.store.objects.items()):
                if self.matches(key, item):
                    await self.store.delete(key)
            self.json({"kind": "Status", "apiVersion": "v1", "status": "Success"})
            return
        self.found()
        options = json.loads(self.request.body or b"{}")
        self.json(await self.store.delete(self.key, options.get("gracePeriodSeconds", 30)))


class Controllers:
    """StatefulSets and Deployments make pods, and make them anew where those are gone."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def run(self) -> None:
        at = -1
        while True:
            async with self._store.news:
                while self._store.version <= at:
                    await self._store.news.wait()
            at = self._store.version
            for key, item in list(self._store.objects.items()):
                if key[1] in ("statefulsets", "deployments") and key in self._store.objects:
                    await self._look(key, item)

    async def _look(self, key: Key, item: Item) -> None:
        name, spec, uid = item["metadata"]["name"], item["spec"], item["metadata"]["uid"]
        mine = {
            pod_key[3]: pod for pod_key, pod in self._store.objects.items()
            if pod_key[1] == "pods"
            and any(o["uid"] == uid and o.get("controller")
                    for o in pod["metadata"].get("ownerReferences", ()))
        }  # fmt: skip
        wanted = [f"{name}-{number}" for number in range(spec.get("replicas", 1))]
        text = json.dumps(spec["template"], sort_keys=True)
        for pod_name, pod in mine.items():
            old = pod["metadata"]["annotations"]["template"] != text
            ended = pod["status"].get("phase") in ("Failed", "Succeeded")
            pod_key = ("v1", "pods", key[2], pod_name)
            if ended:
                await self._store.keep("DELETED", pod_key, dict(pod))
            elif (pod_name not in wanted or old) and "deletionTimestamp" not in pod["metadata"]:
                await self._store.delete(pod_key)
        for pod_name in wanted:
            if ("v1", "pods", key[2], pod_name) not in self._store.objects:
                await self._make(key, item, pod_name, text)

    async def _make(self, key: Key, item: Item, name: str, text: str) -> None:
        template = copy.deepcopy(item["spec"]["template"])
        owner = {"apiVersion": key[0], "kind": item["kind"], "name": key[3],
                 "uid": item["metadata"]["uid"], "controller": True}  # fmt: skip
        meta = {**template["metadata"], "name": name, "ownerReferences": [owner],
                "annotations": {"template": text}}  # fmt: skip
        spec = template["spec"]
        if item["kind"] == "StatefulSet":
            spec["hostname"], spec["subdomain"] = name, item["spec"].get("serviceName", "")
            for claim in item["spec"].get("volumeClaimTemplates", ()):
                volume = claim["metadata"]["name"]
                made = f"{volume}-{name}"
                spec.setdefault("volumes", []).append(
                    {"name": volume, "persistentVolumeClaim": {"claimName": made}}
                )
                place = ("v1", "persistentvolumeclaims", key[2], made)
                if place not in self._store.objects:
                    await self._store.add(place, {
                        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "spec": claim["spec"],
                        "metadata": {"labels": claim["metadata"].get("labels", {})},
                    })  # fmt: skip
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}
        await self._store.add(("v1", "pods", key[2], name), pod)


def _nowhere(pod: str, _what: object) -> Any:
    """Where no kubelet has brought another way."""
    raise KeyError(f"{pod} does not run")


class KubeApi:
    """The server, in a thread of its own.

    Args:
        address: where it listens.
        netns: the path of a network namespace in which that is.
        tls: certificate and key, for HTTPS.
        token: what requests must bring.
    """

    def __init__(
        self, address: str = "127.0.0.1", netns: str = "", tls: tuple[str, str] | None = None,
        token: str = "",
    ) -> None:  # fmt: skip
        self._address, self._netns, self._tls = address, netns, tls
        self.token = token
        self.port = 0
        self.requests: list[str] = []
        self.refusals: list[tuple[str, str, Fault, int]] = []
        self.dropped = 0
        self.largest_page = 500
        self.logs: dict[str, str] = {}
        self.run_in: Callable[[str, list[str]], list[str]] = _nowhere
        self.connect_in: Callable[[str, int], socket.socket] = _nowhere
        self.loop = asyncio.new_event_loop()
        self.beside: list[Callable[[], Awaitable[None]]] = []
        self._ready: Future[None] = Future()
        self._server: tornado.httpserver.HTTPServer | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._faults: list[BaseException | None] = []

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._address}:{self.port}"

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        if self._netns:  # the sockets of this thread are there
            with open(self._netns) as space:
                if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), 0x40000000):
                    raise OSError(ctypes.get_errno(), "setns")
        self.loop.create_task(self._main())
        self.loop.run_forever()

    async def _main(self) -> None:
        self.store = Store()
        self._listen()
        self._tasks = [self.loop.create_task(Controllers(self.store).run())]
        self._tasks += [self.loop.create_task(one()) for one in self.beside]  # type: ignore[arg-type]
        self._ready.set_result(None)

    def _listen(self) -> None:
        context = None
        if self._tls is not None:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*self._tls)
        application = tornado.web.Application([
            (kube_exec.PATH, kube_exec.Exec, {"api": self}),
            (kube_forward.PATH, kube_forward.Forward, {"api": self}),
            (r"/.*", Handler, {"api": self}),
        ])  # fmt: skip
        sockets = tornado.netutil.bind_sockets(self.port, self._address)
        self._server = tornado.httpserver.HTTPServer(application, ssl_options=context)
        self._server.add_sockets(sockets)
        self.port = sockets[0].getsockname()[1]

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the server's thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def start(self) -> None:
        self._thread.start()
        self._ready.result(30)

    def stop(self) -> None:
        async def end() -> None:
            for task in self._tasks:
                task.cancel()
            self._faults = await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._go()

        self.do(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        for fault in self._faults:  # without this a controller that failed would only be slow
            if fault is not None and not isinstance(fault, asyncio.CancelledError):
                raise fault

    # --- faults --------------------

    def refuse(self, method: str, path: str, fault: Fault, times: int = 1 << 30) -> None:
        """Answer requests to a path, or below it, with an error."""
        self.refusals.append((method, path, fault, times))

    def drop_watches(self) -> None:
        """End all of them."""

        async def drop() -> None:
            self.dropped += 1
            async with self.store.news:
                self.store.news.notify_all()

        self.do(drop())

    async def _go(self) -> None:
        self.dropped += 1
        async with self.store.news:
            self.store.news.notify_all()
        if self._server is not None:
            self._server.stop()
            await self._server.close_all_connections()
            self._server = None

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody listens meanwhile."""
        self.do(self._go())
        try:
            yield
        finally:

            async def come_back() -> None:
                self._listen()

            self.do(come_back())

    # --- what a kubelet does --------------------

    def set_status(self, pod: str, **status: Any) -> None:
        """Write a pod's status, and the rest of what a kubelet and a scheduler write."""

        async def write() -> None:
            item = copy.deepcopy(self.store.pod(pod))
            item["status"] = {**item["status"], **status}
            namespace = item["metadata"]["namespace"]
            await self.store.keep("MODIFIED", ("v1", "pods", namespace, pod), item)

        self.do(write())

    def warn(self, pod: str, reason: str, message: str) -> None:
        """An event of type Warning."""

        async def write() -> None:
            meta = self.store.pod(pod)["metadata"]
            name = f"{pod}.{uuid.uuid4().hex[:8]}"
            await self.store.add(("v1", "events", meta["namespace"], name), {
                "apiVersion": "v1", "kind": "Event", "type": "Warning", "reason": reason,
                "message": message, "lastTimestamp": _now(),
                "involvedObject": {"kind": "Pod", "name": pod, "uid": meta["uid"]},
            })  # fmt: skip

        self.do(write())

    def names(self, plural: str) -> list[str]:
        """The names of all objects of a kind."""
        return sorted(key[3] for key in self.store.objects if key[1] == plural)


@contextmanager
def kube_api(**given: Any) -> Iterator[KubeApi]:
    """A server for a test."""
    api = KubeApi(**given)
    api.start()
    try:
        yield api
    finally:
        api.stop()


def kubeconfig(api: KubeApi, authority: str = "") -> str:
    """The text of a configuration of kubectl for it."""
    cluster: Item = {"server": api.url}
    if authority:
        cluster["certificate-authority"] = authority
    return json.dumps({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": {"token": api.token} if api.token else {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    })  # fmt: skip
