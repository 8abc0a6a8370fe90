"""Detection data sets on disk, in YOLO layout or COCO JSON layout, described by a YAML file."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxprune.data import _coco, _yolo
from jaxprune.data._download import download as _download
from jaxprune.data._images import image_size, parallel
from jaxprune.errors import UserError


@dataclasses.dataclass(frozen=True)
class DetectionDataset:
    """One split: where its images are and what is in them; image `i` has `sizes[i]`, `labels[i]` and `image_ids[i]`.

    Attributes:
        file: the YAML file that describes the data set.
        split: `train`, `val` or `test`.
        images: path of every image.
        sizes: `int64 [n, 2]`, height and width of every image in pixels, EXIF rotation applied.
        labels: per image `float32 [boxes, 5]`: class, centre x, centre y, width, height in 0..1 of the image.
        names: name of every class.
        annotations: the COCO JSON file, None in YOLO layout.
        image_ids: id of every image in COCO results.
        category_ids: id of every class in COCO results.
    """

    file: pathlib.Path
    split: str
    images: tuple[pathlib.Path, ...]
    sizes: Int[np.ndarray, 'n 2']
    labels: tuple[Float[np.ndarray, 'boxes 5'], ...]
    names: tuple[str, ...]
    annotations: pathlib.Path | None
    image_ids: tuple[int, ...]
    category_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.names)

    def subset(self, indices: Int[np.ndarray, ' k']) -> 'DetectionDataset':
        """Only these images."""
        chosen = [int(index) for index in indices]
        return dataclasses.replace(
            self,
            images=tuple(self.images[index] for index in chosen),
            sizes=self.sizes[chosen],
            labels=tuple(self.labels[index] for index in chosen),
            image_ids=tuple(self.image_ids[index] for index in chosen),
        )

    def coco_ground_truth(self) -> dict[str, Any]:
        """The ground truth as a COCO dictionary: of the annotation file, crowds too, else made from the labels.

        Annotations are numbered from 1, whatever the file says: pycocotools takes a match to id 0 for no match.
        """
        if self.annotations is not None:
            return _coco.numbered(_coco.read_json(self.annotations), self.image_ids)
        return _coco.from_labels(self.labels, self.sizes, self.image_ids, self.category_ids, self.names)


@dataclasses.dataclass(frozen=True)
class _Source:
    """What the YAML file says about one split, paths not yet looked up."""

    file: pathlib.Path
    root: pathlib.Path
    split: str
    entries: tuple[str, ...]
    names: tuple[str, ...] | None
    annotations: str | None
    download: object

    def bases(self) -> tuple[pathlib.Path, ...]:
        return self.root, self.file.parent, pathlib.Path()

    def find(self, entry: str) -> pathlib.Path | None:
        return next((base / entry for base in self.bases() if (base / entry).exists()), None)


def load_dataset(yaml_path: str | pathlib.Path, split: str = 'val') -> DetectionDataset:
    """Reads the description, the labels and the image sizes of one split; pictures are not decoded.

    The YAML file has `path` (the data's folder, relative to the file or else to the working folder), `train`, `val`
    and `test` (a folder, a list of folders, or a text file with one image path per line; or a COCO JSON file), `nc`
    and `names` (a list, or a mapping from index to name). Labels are read from COCO JSON if the split's entry is one or
    `annotations` has one for the split, else from the text files in the folder `labels` beside `images`. If the images
    are not there, the zip archives of an entry `download` are fetched.

    Args:
        yaml_path: the YAML file.
        split: which of its splits.

    Returns:
        The split, images in the order of their paths (YOLO layout) or of the annotation file.

    Raises:
        UserError: something in the files is wrong; the message names file, line and value.
    """
    source = _read_source(pathlib.Path(yaml_path), split)
    missing = [entry for entry in (*source.entries, *_given(source.annotations)) if source.find(entry) is None]
    if missing and source.download:
        _download(source.file, split, source.download, source.root)
        missing = [entry for entry in missing if source.find(entry) is None]
    if missing:
        raise UserError(f'{source.file}: {split}: {missing[0]!r} does not exist in {source.root}; correct the path')
    first = source.entries[0]
    return _load_coco(source) if source.annotations or first.endswith('.json') else _load_yolo(source)


def _load_yolo(source: _Source) -> DetectionDataset:
    if source.names is None:
        raise UserError(f'{source.file}: no names; list the names of the classes')
    folders = [found for entry in source.entries if (found := source.find(entry))]
    images = _yolo.list_images(folders, source.root)
    return DetectionDataset(
        file=source.file,
        split=source.split,
        images=images,
        sizes=_sizes(images),
        labels=_yolo.read_labels(images, len(source.names)),
        names=source.names,
        annotations=None,
        image_ids=_numeric_names(images),
        category_ids=tuple(range(len(source.names))),
    )


def _load_coco(source: _Source) -> DetectionDataset:
    file = source.find(source.annotations or source.entries[0])
    assert file is not None  # load_dataset looked it up
    content = _coco.read_json(file)
    images, content = _coco_images(source, file, content)
    names, category_ids = _coco.category_ids(file, content, source.names)
    sizes = _sizes(images)
    return DetectionDataset(
        file=source.file,
        split=source.split,
        images=images,
        sizes=sizes,
        labels=_coco.read_boxes(file, content, sizes, category_ids),
        names=names,
        annotations=file,
        image_ids=tuple(image['id'] for image in content['images']),
        category_ids=category_ids,
    )


def _coco_images(
    source: _Source, file: pathlib.Path, content: dict[str, Any]
) -> tuple[tuple[pathlib.Path, ...], dict[str, Any]]:
    """Paths of the images, and the content for them alone if the split is a text file that lists some of them."""
    entry = source.find(source.entries[0])
    assert entry is not None  # load_dataset looked it up
    if entry.suffix == '.txt':
        return _listed_images(file, content, _yolo.list_images([entry], source.root))
    if entry.is_dir():
        return _coco.find_images(file, content, [entry]), content
    part = file.stem.removeprefix('instances_')
    places = [base / 'images' for base in (source.root, file.parent.parent)] + [source.root, file.parent.parent]
    return _coco.find_images(file, content, [*(place / part for place in places), *places, file.parent]), content


def _listed_images(
    file: pathlib.Path, content: dict[str, Any], listed: Sequence[pathlib.Path]
) -> tuple[tuple[pathlib.Path, ...], dict[str, Any]]:
    by_name = {path.name: path for path in listed}
    images = [image for image in content['images'] if pathlib.Path(image['file_name']).name in by_name]
    if len(images) != len(by_name):
        known = {pathlib.Path(image['file_name']).name for image in images}
        stranger = next(path for name, path in by_name.items() if name not in known)
        raise UserError(f'{file}: image {stranger} is in the list of the split but not in this file; take it out')
    wanted = {image['id'] for image in images}
    annotations = [row for row in content['annotations'] if row['image_id'] in wanted]
    paths = tuple(by_name[pathlib.Path(image['file_name']).name] for image in images)
    return paths, {**content, 'images': images, 'annotations': annotations}


def _sizes(images: Sequence[pathlib.Path]) -> Int[np.ndarray, 'n 2']:
    return np.array(parallel(image_size, images), np.int64).reshape(-1, 2)


def _numeric_names(images: Sequence[pathlib.Path]) -> tuple[int, ...]:
    """COCO's images are named by their ids; others are counted."""
    stems = [path.stem for path in images]
    numeric = all(stem.isascii() and stem.isdigit() for stem in stems)
    ids = tuple(int(stem) for stem in stems) if numeric else ()
    return ids if len(set(ids)) == len(images) else tuple(range(len(images)))


def _read_source(file: pathlib.Path, split: str) -> _Source:
    content = _read_yaml(file)
    entries = content.get(split)
    entries = entries if isinstance(entries, list) else [entries]
    if not entries or not all(isinstance(entry, str) and entry for entry in entries):
        there = ', '.join(key for key in ('train', 'val', 'test') if content.get(key)) or 'no split'
        raise UserError(f'{file}: no split {split!r}: it has {there}; name a folder or a list of images')
    annotations = content.get('annotations') or {}
    if not isinstance(annotations, Mapping):
        raise UserError(f'{file}: annotations {annotations!r} is not a mapping from split to COCO JSON file')
    return _Source(
        file=file,
        root=_root(file, str(content.get('path') or '.')),
        split=split,
        entries=tuple(entries),
        names=_names(file, content),
        annotations=annotations.get(split),
        download=content.get('download'),
    )


def _read_yaml(file: pathlib.Path) -> Mapping[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding='utf-8'))
    except FileNotFoundError:
        raise UserError(f'{file}: does not exist; give the YAML file of a data set') from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = ' '.join(str(error).split())
        raise UserError(f'{file}: not a readable YAML file ({reason})') from error
    if not isinstance(content, Mapping):
        raise UserError(f'{file}: not a mapping; a data set has path, train, val, nc and names')
    return content


def _root(file: pathlib.Path, path: str) -> pathlib.Path:
    """The data's folder: beside the YAML file if it is there, else in the working folder (where it may be made)."""
    beside = file.parent / path
    return beside if beside.exists() else pathlib.Path(path)


def _names(file: pathlib.Path, content: Mapping[str, Any]) -> tuple[str, ...] | None:
    names, count = content.get('names'), content.get('nc')
    if names is None:
        return None
    if isinstance(names, Mapping):
        if sorted(names, key=str) != sorted(range(len(names)), key=str):
            raise UserError(f'{file}: names has the indices {list(names)}; they must be 0 to {len(names) - 1}')
        names = [names[index] for index in range(len(names))]
    if not isinstance(names, list) or not names:
        raise UserError(f'{file}: names {names!r} is not a list of class names')
    if count is not None and count != len(names):
        raise UserError(f'{file}: nc is {count!r} but there are {len(names)} names; make them agree')
    return tuple(str(name) for name in names)


def _given(value: str | None) -> tuple[str, ...]:
    return () if value is None else (value,)
