"""One process that tries files and writes down, line by line, what became of them.

The file under test stays where it is until the next one, so that it is at hand when it takes the process down.
"""

import dataclasses
import gc
import hashlib
import json
import os
import pathlib
import resource
from collections.abc import Callable

from fuzz import files, oracle
from weights_convert import convert_checkpoint

MEMORY = 3 << 30  # bytes of address space beyond those that are taken at the start
_FORWARD_EVERY = 400  # of the models that convert, run one in so many
_COLLECT_EVERY = 500


@dataclasses.dataclass
class Worker:
    """Tries files in `folder`; `tried` is called with the outcome of each."""

    folder: pathlib.Path
    watches_output: bool = True
    done: int = 0
    converted: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.file = self.folder / 'current.pt'
        self._results = (self.folder / 'results.jsonl').open('a', buffering=1)
        self._printed = 0

    def warm_up(self) -> None:
        """Loads what is loaded at the first use, so that only what a file brings about is counted later."""
        for content in files.wholes().values():
            self.file.write_bytes(content)
            for _ in range(2):
                oracle.check(self.file)
        soft = int(pathlib.Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (soft, resource.RLIM_INFINITY))
        self._printed = self._output()

    def attempt(self, index: int, how: str, content: bytes) -> oracle.Outcome:
        """One file."""
        self.file.write_bytes(content)
        keep: list[object] = []
        outcome = oracle.check(self.file, convert=lambda path: keep.append(convert_checkpoint(path)) or keep[-1])
        if outcome.kind == oracle.CONVERTED:
            self.converted += 1
            if self.converted % _FORWARD_EVERY == 1 and (wrong := oracle.forward(keep[0])):
                outcome = dataclasses.replace(outcome, kind=oracle.FINDING, text=wrong[0], detail=wrong[0])
        if (printed := self._output()) != self._printed:
            detail = f'prints at byte {self._printed} of output.txt\n{outcome.detail}'
            outcome = dataclasses.replace(outcome, kind=oracle.FINDING, text='prints', detail=detail)
            self._printed = printed
        self.note(index, how, content, outcome)
        return outcome

    def note(self, index: int, how: str, content: bytes, outcome: oracle.Outcome) -> None:
        self.done += 1
        name = f'{hashlib.sha1(content).hexdigest()[:12]}.pt'
        if outcome.kind == oracle.FINDING:
            (self.folder / name).write_bytes(content)
        row = {'index': index, 'how': how, 'size': len(content), 'file': name, **dataclasses.asdict(outcome)}
        self._results.write(json.dumps(row) + '\n')
        if self.done % _COLLECT_EVERY == 0:
            gc.collect()

    def _output(self) -> int:
        """Bytes that the process has written to where its output goes, if that is a file."""
        return sum(os.fstat(stream).st_size for stream in (1, 2)) if self.watches_output else self._printed


def main(*, folder: str, source: str, seed: int, first: int, last: int, step: int) -> None:
    """A whole worker process; `done` in the folder says that it came to its end."""
    worker = Worker(pathlib.Path(folder))
    worker.warm_up()
    _SOURCES[source](worker, seed, range(first, last, step))
    (worker.folder / 'done').touch()


def _files(worker: Worker, seed: int, indices: range) -> None:
    for index in indices:
        worker.attempt(index, *files.make(seed, index))


def _like(worker: Worker, seed: int, indices: range) -> None:
    """Files as originals of `write_checkpoint`."""
    from fuzz import rewriting

    for index in indices:
        name, content = rewriting.make(seed, index)
        rewrite = rewriting.Rewrite(worker.folder, name)
        worker.file.write_bytes(content)
        outcome = oracle.check(worker.file, convert=rewrite, writes=worker.folder / 'written')
        worker.note(index, 'like', content, outcome)


def _grammar(worker: Worker, seed: int, indices: range) -> None:
    import hypothesis

    from fuzz import grammar

    index = iter(indices)

    @hypothesis.seed(f'{seed}:{indices.start}')
    @hypothesis.settings(
        max_examples=len(indices),
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(grammar.whole_files())
    def attempt(content: bytes) -> None:
        worker.attempt(next(index, indices.stop), 'hypothesis', content)

    attempt()


def _extremes(worker: Worker, seed: int, indices: range) -> None:
    from fuzz import extremes

    cases = list(extremes.cases().items())
    for index in range(indices.start, min(indices.stop, len(cases))):
        name, make = cases[index]
        worker.attempt(index, f'extreme: {name}', make())


def _guided(worker: Worker, seed: int, indices: range) -> None:
    from fuzz import guided

    guided.run(worker, seed, len(indices))


_SOURCES: dict[str, Callable[[Worker, int, range], None]] = {
    'files': _files,
    'grammar': _grammar,
    'extremes': _extremes,
    'like': _like,
    'guided': _guided,
}
