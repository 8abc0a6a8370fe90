"""Many files in worker processes, which are started again where one of them dies or hangs; and the summary."""

import collections
import dataclasses
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

from fuzz import oracle

_MANY = 10_000  # more than there are
_SILENT = 60  # seconds without a result after which a worker is taken to hang
_RUN = pathlib.Path(__file__).with_name('run.py')


@dataclasses.dataclass
class Task:
    """What one worker process has to do: files `first` to `last` (without) in steps of `step` from a source."""

    source: str
    seed: int
    first: int
    last: int
    step: int = 1
    python: str = sys.executable


def plan(files: int, seed: int, workers: int, guided: str | None) -> list[Task]:
    """Who tries which: a tenth from hypothesis, a tenth written back, a quarter guided where there is a fuzzer."""
    tasks = [Task('extremes', seed, 0, _MANY)]
    tasks += [Task('grammar', seed, 0, files // 10)]
    tasks += [Task('like', seed, 0, files // 10)]
    tasks += [Task('guided', seed, 0, files // 4, python=guided)] if guided else []
    rest = files - sum(task.last for task in tasks[1:])
    return tasks + [Task('files', seed, index, rest, workers) for index in range(workers)]


@dataclasses.dataclass
class _Running:
    task: Task
    folder: pathlib.Path
    process: subprocess.Popen[bytes]

    @property
    def results(self) -> pathlib.Path:
        return self.folder / 'results.jsonl'

    def silent(self) -> float:
        """Seconds since the last result, or since the start."""
        file = self.results if self.results.exists() else self.folder
        return time.time() - file.stat().st_mtime

    def kill(self) -> None:
        """Ends the process and those that it may have started."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


def run(folder: pathlib.Path, tasks: list[Task], workers: int) -> dict[str, Any]:
    """Does all tasks and sums up."""
    folder.mkdir(parents=True, exist_ok=True)
    start, queue, running, folders = time.time(), list(tasks), list[_Running](), list[pathlib.Path]()
    try:
        while queue or running:
            while queue and len(running) < workers:
                running.append(_start(queue.pop(0), folder / f'worker{len(folders)}'))
                folders.append(running[-1].folder)
            time.sleep(0.5)
            for each in list(running):
                if each.silent() > _SILENT:
                    each.kill()
                if each.process.poll() is not None:
                    running.remove(each)
                    queue[:0] = _after(each)
    finally:
        for each in running:
            each.kill()
    summary = summarise(folder, folders, time.time() - start)
    (folder / 'summary.json').write_text(json.dumps(summary, indent=1) + '\n')
    (folder / 'summary.txt').write_text(table(summary) + '\n')
    return summary


def _start(task: Task, folder: pathlib.Path) -> _Running:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    work = {'folder': str(folder), **{key: value for key, value in dataclasses.asdict(task).items() if key != 'python'}}
    command = [task.python, str(_RUN), '--work', json.dumps(work)]
    with (folder / 'output.txt').open('wb') as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return _Running(task, folder, process)


def _after(ended: _Running) -> list[Task]:
    """Notes the death of a worker that did not end well, and what is left of its task."""
    if (ended.folder / 'done').exists():
        return []
    rows = list(_rows(ended.folder))
    index = rows[-1]['index'] + 1 if rows else 0
    current = ended.folder / 'current.pt'
    code = ended.process.returncode
    output = (ended.folder / 'output.txt').read_text(errors='replace')[-2000:]
    if code == 1:
        raise RuntimeError(f'{ended.folder}: an error of the fuzzing program itself:\n{output}')
    outcome = oracle.Outcome(oracle.FINDING, f'ends the process with {code}', 0.0, 0, output)
    if current.exists():
        shutil.copy(current, ended.folder / f'died-{index}.pt')
    with ended.results.open('a') as file:
        row = {'index': index, 'how': ended.task.source, 'size': 0, **dataclasses.asdict(outcome)}
        file.write(json.dumps(row | {'file': f'died-{index}.pt'}) + '\n')
    tried = [row['index'] for row in rows]
    task = dataclasses.replace(
        ended.task, first=max(tried, default=ended.task.first) + ended.task.step, seed=ended.task.seed
    )
    return [task] if rows and task.first < task.last else []


def _rows(folder: pathlib.Path) -> list[dict[str, Any]]:
    results = folder / 'results.jsonl'
    return (
        [json.loads(line) for line in results.read_text().splitlines() if line.endswith('}')]
        if results.exists()
        else []
    )


def summarise(folder: pathlib.Path, folders: list[pathlib.Path], seconds: float) -> dict[str, Any]:
    """Counts outcomes; copies one file, the smallest, for each distinct finding to `findings`."""
    counts: collections.Counter[tuple[str, str]] = collections.Counter()
    sources: collections.Counter[str] = collections.Counter()
    smallest: dict[str, tuple[dict[str, Any], pathlib.Path]] = {}
    longest, largest = dict[str, Any](), dict[str, Any]()
    for worker in folders:
        for row in _rows(worker):
            counts[row['kind'], row['text']] += 1
            sources[row['how'].partition(':')[0]] += 1
            longest = max(longest, row, key=lambda each: each.get('seconds', -1))
            largest = max(largest, row, key=lambda each: each.get('memory', -1))
            if row['kind'] == oracle.FINDING and row['size'] <= smallest.get(row['text'], (row,))[0]['size']:
                smallest[row['text']] = row, worker
    return {
        'files': sum(counts.values()),
        'seconds': round(seconds, 1),
        'sources': dict(sources),
        'kinds': {
            kind: sum(n for key, n in counts.items() if key[0] == kind) for kind in sorted({key[0] for key in counts})
        },
        'distinct': len(counts),
        'longest': _figures(longest),
        'largest': _figures(largest),
        'outcomes': [{'kind': kind, 'text': text, 'count': count} for (kind, text), count in counts.most_common()],
        'findings': [_keep(folder, index, *found) for index, found in enumerate(smallest.values())],
    }


def _figures(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ('seconds', 'memory', 'size', 'how', 'kind', 'text') if key in row}


def _keep(folder: pathlib.Path, index: int, row: dict[str, Any], worker: pathlib.Path) -> dict[str, Any]:
    target = folder / 'findings' / f'{index}.pt'
    target.parent.mkdir(exist_ok=True)
    source = worker / row.get('file', '')
    if source.is_file():
        shutil.copy(source, target)
    target.with_suffix('.txt').write_text(row['detail'] + '\n')
    return {'file': str(target.relative_to(folder)), **_figures(row), 'detail': row['detail'][:2000]}


def table(summary: dict[str, Any]) -> str:
    """The summary to read."""
    lines = [f'{summary["files"]:,} files in {summary["seconds"]:.0f} s, {summary["distinct"]} distinct outcomes']
    lines += [f'  {kind}: {count:,}' for kind, count in summary['kinds'].items()]
    lines += [f'made by: {", ".join(f"{name} {count:,}" for name, count in sorted(summary["sources"].items()))}']
    for word, key in (('longest time', 'longest'), ('largest memory', 'largest')):
        row = summary[key]
        figure = f'{row["seconds"]:.2f} s' if key == 'longest' else f'{row["memory"] / (1 << 20):.1f} MB'
        lines += [f'{word}: {figure}, for a file of {row["size"]:,} bytes ({row["how"]}: {row["text"]})']
    lines += [f'{row["count"]:>8,}  {row["kind"]:<9}  {row["text"]}' for row in summary['outcomes']]
    return '\n'.join(lines)
