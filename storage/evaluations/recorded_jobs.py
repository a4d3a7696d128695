"""Jobs of a comparison on recorded answers (r2/evaluation/recorded/playing.py) that are finished while it is not:
`<lake>/_recorded/<id>.jobs/<code>/<job>.json`. A comparison that was stopped goes on with them; once it is there they
go.

A job is kept by the process that ran it, at once. `<code>` is a digest of the code: what other code fitted is not
taken.
"""

import hashlib
import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import orjson

import r2
from r2.atomic import write_atomically
from r2.evaluation.recorded.playing import Done, Job, done_of, identity, kept_of, run_job
from storage.evaluations.recorded import FOLDER


@dataclass(frozen=True, slots=True)
class KeptJobs:
    """The jobs of the comparison of this id. Can be pickled, for processes of their own."""

    lake: Path
    comparison_id: str

    def run(self, job: Job) -> Done:
        """What the job came to: as it is kept, else by running it, after which it is kept."""
        path = self._of(job)
        done = _read(path, job) if path.is_file() else None
        if done is None:
            done = run_job(job)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, orjson.dumps(kept_of(job, done)))
        return done

    def has(self, job: Job) -> bool:
        """Whether it need not be run."""
        return self._of(job).is_file()

    def finished(self) -> None:
        """The comparison is there: nothing has to be kept any more."""
        if self._folder.exists():
            shutil.rmtree(self._folder)

    @property
    def _folder(self) -> Path:
        return self.lake / FOLDER / f"{self.comparison_id}.jobs"

    def _of(self, job: Job) -> Path:
        return self._folder / _code() / f"{identity(job)}.json"


def _read(path: Path, job: Job) -> Done | None:
    """None for a file that is damaged: the fit is made again."""
    try:
        return done_of(job, orjson.loads(path.read_bytes()))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None


@lru_cache(maxsize=1)
def _code() -> str:
    """Of every source file of r2, where all that a job does is written."""
    root = Path(r2.__file__).parent
    digest = hashlib.blake2b(digest_size=6)
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()
