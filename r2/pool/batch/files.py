"""Lines of a batch as a file: sent as a form with a file in it, and read back a line at a time.

What OpenAI, those who have its form, and Mistral share.
"""

import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Final

import orjson

from r2.errors import BatchQueueFullError, BatchUnclearError
from r2.pool.batch.http import BatchHttp, Content, in_chunks
from r2.pool.batch.protocol import BatchJob, BatchLine, BatchRow, BatchStatus
from r2.pool.client.dialects.text import as_json, text_of

_BOUNDARY: Final = "r2-batch-4f1c0f6b7f0d4d6e9a1b"


class Uploads:
    """Files that were sent for jobs which do not exist yet: where a create is put off (a rate limit, a full queue), the
    next one names the same file. Forgotten with the process: then a file is sent again."""

    def __init__(self) -> None:
        self._by_job: dict[str, str] = {}

    @asynccontextmanager
    async def of(self, job: BatchJob, send: Callable[[], Awaitable[str]]) -> AsyncIterator[str]:
        """The file of a job, sent if it is not there, for a block that creates the job; kept where the block ends so
        that surely nothing was created and the file was not to blame."""
        if job.id not in self._by_job:
            self._by_job[job.id] = await send()
        file_id = self._by_job.pop(job.id)
        try:
            yield file_id
        except (BatchQueueFullError, BatchUnclearError) as error:
            if isinstance(error, BatchQueueFullError) or not error.may_exist:
                self._by_job[job.id] = file_id
            raise


async def upload_file(
    http: BatchHttp,
    url: str,
    job: BatchJob,
    lines: Collection[BatchLine],
    wrapped: Callable[[BatchLine], bytes],
    fields: Mapping[str, str],
) -> str:
    """Sends the lines, as `wrapped` writes them, as a file called by our id, piece by piece; its id there. `fields`
    come before it in the form."""
    head = "".join(
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    head += f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="file"; filename="{job.id}.jsonl"\r\n'
    before = (head + "Content-Type: application/octet-stream\r\n\r\n").encode()
    after = f"\r\n--{_BOUNDARY}--\r\n".encode()
    length = len(before) + sum(len(wrapped(line)) for line in lines) + len(after)

    def pieces() -> Iterator[bytes]:
        yield before
        yield from map(wrapped, lines)
        yield after

    content = Content(length, in_chunks(pieces()), f"multipart/form-data; boundary={_BOUNDARY}")
    answer = await http.ask("POST", url, "upload", body=content)
    return id_of(answer.document, may_exist=False)


async def cancelled(http: BatchHttp, url: str, status: Callable[[], Awaitable[BatchStatus]]) -> None:
    """Asks for the end of a job; one that is over already is no error."""
    try:
        await http.ask("POST", url, "job")
    except BatchUnclearError:
        if not (await status()).is_over:
            raise


async def begins_with(rows: AsyncGenerator[BatchRow, None], job: BatchJob) -> bool:
    """Whether the first row with an id has one of ours. False where there is none."""
    async with aclosing(rows):
        async for row in rows:
            if row.custom_id:
                return row.custom_id.startswith(job.id[:16])
    return False


def id_of(told: object, *, may_exist: bool = True) -> str:
    """The id of a job or a file. BatchUnclearError where there is none: the reply is not what it should be."""
    found = told.get("id") if isinstance(told, dict) else None
    if not isinstance(found, str) or not found:
        raise BatchUnclearError(f"the provider's reply names no id: {str(told)[:200]}", may_exist=may_exist)
    return found


def row_of(line: bytes) -> BatchRow:
    """One line of an output or error file."""
    entry = as_json(line)
    if not isinstance(entry, dict):
        return BatchRow("", 0, line, "not readable")
    custom_id, response, error = entry.get("custom_id"), entry.get("response"), entry.get("error")
    name = custom_id if isinstance(custom_id, str) else ""
    status = response.get("status_code") if isinstance(response, dict) else None
    if isinstance(response, dict) and isinstance(status, int) and not isinstance(status, bool):
        body = response.get("body")
        document = body if body is not None else {"error": error}
        return BatchRow(name, status, as_bytes(document))
    code = text_of(error.get("code")) if isinstance(error, dict) else ""
    return BatchRow(name, 0, as_bytes({"error": error}), code.removeprefix("batch_") or "not run")


def as_bytes(document: object) -> bytes:
    """JSON, whatever a server has sent."""
    try:
        return orjson.dumps(document)
    except TypeError:  # a number beyond 64 bits, a lone surrogate
        return json.dumps(document).encode()
