"""The answers of the hub and its storage to each address.

Addresses are split before they are percent-decoded, because a branch may hold `%2F`. Refusals are those of the real hub, with
`X-Error-Code` and `X-Error-Message`.

    answer = answer_hub(hub, Request("GET", "hub", "/api/models/org/name/refs", {}))
    assert answer.status == 200
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, unquote, urlencode

from tests.hub.answers import Answer, Refusal, Request, bytes_answer, content_answer, json_answer
from tests.hub.faults import expired_answer
from tests.hub.repository import Blob, Commit, Repository, history

if TYPE_CHECKING:
    from tests.hub.server import LocalHub

_REPO = r"(?P<repo>[^/]+/[^/]+)"
_REVISION = r"(?P<revision>refs/(?:pr|convert)/[^/]+|[^/]+)"
_API = re.compile(rf"/api/models/{_REPO}(?:/(?P<noun>[a-z-]+)(?:/{_REVISION}(?:/(?P<path>.+))?)?)?")
_RESOLVE = re.compile(rf"/{_REPO}/resolve/{_REVISION}/(?P<path>.+)")
_CACHED = re.compile(rf"/api/resolve-cache/models/{_REPO}/{_REVISION}/(?P<path>.+)")
_STORED = re.compile(rf"/repos/{_REPO}/(?P<key>[0-9a-f]{{64}})")


def answer_hub(hub: LocalHub, request: Request) -> Answer:
    """Answer a request to the hub's own address, with quota headers."""
    try:
        answer = _route(hub, request)
    except Refusal as refusal:
        answer = refusal.answer()
    bucket = "api" if request.path.startswith("/api/models/") else "resolvers"
    answer.headers.setdefault("RateLimit", f'"{bucket}";r=499;t=300')
    answer.headers.setdefault("RateLimit-Policy", f'"fixed window";"{bucket}";q=500;w=300')
    if hub.warning:
        answer.headers["X-HF-Warning"] = hub.warning
    return answer


def _route(hub: LocalHub, request: Request) -> Answer:
    if cached := _CACHED.fullmatch(request.path):
        return _serve_small(hub, request, **_decoded(cached))
    if asked := _API.fullmatch(request.path):
        return _answer_api(hub, request, **_decoded(asked))
    if asked := _RESOLVE.fullmatch(request.path):
        return _resolve(hub, request, **_decoded(asked))
    raise Refusal(404, "", "Sorry, there is nothing at this address")


def _decoded(found: re.Match[str]) -> dict[str, Any]:
    return {name: unquote(value) if value else value for name, value in found.groupdict().items()}


# ---- who may read what ------------------------------------------------------------------------------------------------


def _visible(hub: LocalHub, request: Request, name: str) -> Repository:
    token = request.token
    if token is not None and token not in hub.tokens:
        raise Refusal(401, "", "Invalid credentials in Authorization header")
    if name in hub.renamed:
        path = request.path.replace(name, hub.renamed[name], 1)
        location = f"{path}?{request.query}" if request.query else path
        raise Refusal(307, "", f"Temporary Redirect. Redirecting to {location}", {"Location": location})
    repository = hub.repositories.get(name)
    if repository is None or (repository.private and token not in repository.tokens):
        raise Refusal(404 if token else 401, "RepoNotFound", "Repository not found")
    if repository.disabled:
        raise Refusal(403, "", "Access to this resource is disabled.")
    return repository


def _readable(hub: LocalHub, request: Request, name: str) -> Repository:
    repository = _visible(hub, request, name)
    if repository.gated and request.token not in repository.tokens:
        status, advice = (403, "ask its authors for access") if request.token else (401, "log in first")
        raise Refusal(status, "GatedRepo", f"Access to model {name} is restricted: {advice}")
    return repository


def _commit(repository: Repository, revision: str) -> Commit:
    commit = repository.find(revision)
    if commit is None:
        raise Refusal(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    return commit


def _blob(commit: Commit, path: str) -> Blob:
    if path not in commit.files:
        raise Refusal(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit.id})
    return commit.files[path]


# ---- the JSON half ----------------------------------------------------------------------------------------------------


def _answer_api(
    hub: LocalHub, request: Request, repo: str, noun: str | None, revision: str | None, path: str | None
) -> Answer:
    if noun == "auth-check":
        _readable(hub, request, repo)
        return bytes_answer(b"OK")
    repository = _visible(hub, request, repo)
    if noun == "refs":
        return json_answer(_refs(repository, with_pulls=request.parameters.get("include_prs") == "1"))
    commit = _commit(repository, revision or "main")
    if noun in (None, "revision"):
        return json_answer(_info(repository, commit, blobs=request.parameters.get("blobs") == "true"))
    if noun == "tree":
        return _page(hub, request, _tree(hub, commit, path or "", request.parameters))
    if noun == "commits":
        return _page(hub, request, [_commit_item(each) for each in history(commit)])
    if noun == "paths-info" and request.method == "POST":
        return json_answer(_paths_info(commit, parse_qs(request.body.decode())))
    raise Refusal(404, "", "Sorry, there is nothing at this address")


def _refs(repository: Repository, *, with_pulls: bool) -> dict[str, Any]:
    def items(refs: dict[str, Commit], prefix: str) -> list[dict[str, str]]:
        return [{"name": name, "ref": prefix + name, "targetCommit": commit.id} for name, commit in refs.items()]

    refs: dict[str, Any] = {
        "branches": items(repository.branches, "refs/heads/"),
        "converts": items(repository.converts, "refs/convert/"),
        "tags": items(repository.tags, "refs/tags/"),
    }
    return refs | ({"pullRequests": items(repository.pulls, "refs/pr/")} if with_pulls else {})


def _info(repository: Repository, commit: Commit, *, blobs: bool) -> dict[str, Any]:
    return {
        "_id": hashlib.md5(repository.name.encode(), usedforsecurity=False).hexdigest()[:24],
        "id": repository.name,
        "modelId": repository.name,
        "author": repository.name.partition("/")[0],
        "sha": commit.id,
        "lastModified": commit.timestamp,
        "createdAt": history(commit)[-1].timestamp,
        "private": repository.private,
        "gated": repository.gated or False,
        "disabled": repository.disabled,
        "downloads": 0,
        "likes": 0,
        "tags": ["safetensors"],
        "siblings": [_sibling(blob, blobs=blobs) for blob in commit.files.values()],
    }


def _sibling(blob: Blob, *, blobs: bool) -> dict[str, Any]:
    if not blobs:
        return {"rfilename": blob.path}
    item: dict[str, Any] = {"rfilename": blob.path, "blobId": blob.oid, "size": blob.content.size}
    if blob.sha256:
        item["lfs"] = {"sha256": blob.sha256, "size": blob.content.size, "pointerSize": blob.pointer_size}
    return item


def _tree(hub: LocalHub, commit: Commit, folder: str, parameters: dict[str, str]) -> list[dict[str, Any]]:
    prefix = f"{folder.strip('/')}/" if folder else ""
    inside = {path.removeprefix(prefix): blob for path, blob in commit.files.items() if path.startswith(prefix)}
    if not inside:
        raise Refusal(404, "EntryNotFound", f"{folder} does not exist on {commit.id}", {"X-Repo-Commit": commit.id})
    folders = {path[:at] for path in inside for at, sign in enumerate(path) if sign == "/"}
    items = [_folder_item(commit, prefix + name) for name in folders]
    items += [_file_item(blob, xet=hub.xet) for blob in inside.values()]
    if parameters.get("recursive") != "true":
        items = [item for item in items if "/" not in item["path"].removeprefix(prefix)]
    expand = parameters.get("expand") == "true"
    return [_expanded(item, commit) if expand else item for item in sorted(items, key=lambda item: item["path"])]


def _folder_item(commit: Commit, path: str) -> dict[str, Any]:
    lines = [f"{blob.oid} {name}" for name, blob in commit.files.items() if name.startswith(f"{path}/")]
    oid = hashlib.sha1("\n".join(lines).encode(), usedforsecurity=False).hexdigest()
    return {"type": "directory", "oid": oid, "size": 0, "path": path}


def _file_item(blob: Blob, *, xet: bool = False) -> dict[str, Any]:
    item: dict[str, Any] = {"type": "file", "oid": blob.oid, "size": blob.content.size, "path": blob.path}
    if blob.sha256:
        item["lfs"] = {"oid": blob.sha256, "size": blob.content.size, "pointerSize": blob.pointer_size}
    if blob.key and xet:
        item["xetHash"] = _xet_hash(blob)
    return item


def _expanded(item: dict[str, Any], commit: Commit) -> dict[str, Any]:
    last = {"id": commit.id, "title": commit.title, "date": commit.timestamp}
    safe = {"status": "safe", "avScan": None, "pickleImportScan": None}
    return {**item, "lastCommit": last} | ({"securityFileStatus": safe} if item["type"] == "file" else {})


def _paths_info(commit: Commit, form: dict[str, list[str]]) -> list[dict[str, Any]]:
    items = []
    for path in form.get("paths", []):
        if path in commit.files:
            items.append(_file_item(commit.files[path]))
        elif any(name.startswith(f"{path}/") for name in commit.files):
            items.append(_folder_item(commit, path))
    expand = form.get("expand") == ["true"]
    return [_expanded(item, commit) if expand else item for item in items]


def _commit_item(commit: Commit) -> dict[str, Any]:
    authors = [{"user": "author", "avatar": ""}]
    return {"id": commit.id, "title": commit.title, "message": "", "authors": authors, "date": commit.timestamp}


def _page(hub: LocalHub, request: Request, items: list[Any]) -> Answer:
    """One page of a listing; the next one's address, cursor included, goes into the Link header."""
    parameters = request.parameters
    first = int(base64.urlsafe_b64decode(parameters["cursor"])) if "cursor" in parameters else 0
    last = first + hub.page_size
    headers = {}
    if last < len(items):
        cursor = base64.urlsafe_b64encode(str(last).encode()).decode()
        headers["Link"] = f'<{hub.endpoint}{request.path}?{urlencode(parameters | {"cursor": cursor})}>; rel="next"'
    return json_answer(items[first:last], headers=headers)


# ---- the bytes --------------------------------------------------------------------------------------------------------


def _resolve(hub: LocalHub, request: Request, repo: str, revision: str, path: str) -> Answer:
    """Redirect to the address of the bytes; the redirect itself carries the facts of the file that the client reads."""
    commit = _commit(_readable(hub, request, repo), revision)
    blob = _blob(commit, path)
    headers = {
        "X-Repo-Commit": commit.id,
        "X-Linked-Size": str(blob.content.size),
        "X-Linked-ETag": f'"{blob.etag}"',
        "ETag": f'"{blob.etag}"',
        "Accept-Ranges": "bytes",
    }
    if blob.key:
        location, status = _signed_address(hub, repo, blob), 302
        headers |= _xet_headers(hub, repo, commit, blob) if hub.xet else {}
    else:
        location = f"/api/resolve-cache/models/{repo}/{commit.id}/{quote(path)}?etag=%22{blob.etag}%22"
        status = 307
    text = f"{'Found' if status == 302 else 'Temporary Redirect'}. Redirecting to {location}".encode()
    return bytes_answer(text, status=status, headers={**headers, "Location": location, "Content-Type": "text/plain"})


def _xet_headers(hub: LocalHub, repo: str, commit: Commit, blob: Blob) -> dict[str, str]:
    """The headers that point Xet clients to their addresses, which do not exist here."""
    route = f"{hub.endpoint}/api/models/{repo}/xet-read-token/{commit.id}"
    rebuilt = f"{hub.cdn_endpoint}/v1/reconstructions/{_xet_hash(blob)}"
    links = f'<{route}>; rel="xet-auth", <{rebuilt}>; rel="xet-reconstruction-info"'
    return {"X-Xet-Hash": _xet_hash(blob), "X-Xet-Refresh-Route": route, "Link": links}


def _xet_hash(blob: Blob) -> str:
    return hashlib.sha256(f"xet {blob.key}".encode()).hexdigest()


def _serve_small(hub: LocalHub, request: Request, repo: str, revision: str, path: str) -> Answer:
    commit = _commit(_readable(hub, request, repo), revision)
    blob = _blob(commit, path)
    headers = {"X-Repo-Commit": commit.id, "ETag": f'"{blob.etag}"', "Content-Type": "text/plain; charset=utf-8"}
    return content_answer(blob.content, request, headers)


def _signature(hub: LocalHub, path: str, expires: str) -> str:
    return hmac.new(hub.secret, f"{path}?{expires}".encode(), hashlib.sha256).hexdigest()


def _signed_address(hub: LocalHub, repo: str, blob: Blob) -> str:
    path = f"/repos/{repo}/{blob.key}"
    expires = f"{time.time() + hub.url_lifetime:.3f}"
    name = blob.path.rpartition("/")[2]
    query = {
        "response-content-disposition": f"inline; filename*=UTF-8''{quote(name)}; filename=\"{name}\";",
        "Expires": expires,
        "Signature": _signature(hub, path, expires),
    }
    return f"{hub.cdn_endpoint}{path}?{urlencode(query)}"


def answer_cdn(hub: LocalHub, request: Request) -> Answer:
    """Answer a request to the storage: only the signature in the address counts, and a bearer token beside it is an error."""
    found = _STORED.fullmatch(request.path)
    if "authorization" in request.headers:
        return bytes_answer(b"<Error><Message>Only one auth mechanism allowed</Message></Error>", status=400)
    signed, expires = request.parameters.get("Signature", ""), request.parameters.get("Expires", "0")
    if not found or not hmac.compare_digest(signed, _signature(hub, request.path, expires)):
        return bytes_answer(b"<Error><Code>AccessDenied</Code></Error>", status=403)
    if time.time() > float(expires):
        return expired_answer()
    blob = hub.repositories[found["repo"]].stored[found["key"]]
    disposition = request.parameters["response-content-disposition"]
    return content_answer(blob.content, request, {"ETag": f'"{blob.key}"', "Content-Disposition": disposition})
