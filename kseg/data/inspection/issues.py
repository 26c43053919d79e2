"""Finds issues of a data set in the statistics of kseg.data.inspection.statistics."""

import re
import shlex
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kseg.config import DataConfig, InspectConfig
from kseg.config.data_sources import is_read
from kseg.config.fields import as_flag
from kseg.data.check import describe_note
from kseg.data.inspection.statistics import TINY, SampleStatistics, SplitStatistics
from kseg.data.label_values import unclear_void

CONSTANT = 2.0
"""Images with a smaller standard deviation of their grey levels are reported as nearly constant."""
NEAR_DUPLICATE = 4.0
"""Images with thumbnails that differ by fewer grey levels (mean absolute difference) are reported as near duplicates: frames of
one clip, or one photo stored twice."""
_MAX_COMPARISONS = 2**24  # pairs of thumbnails; more would take minutes
_ASPECT = 4.0
_DISTORTION = 1.5
_RARE = 0.001


@dataclass(frozen=True)
class Issue:
    """A problem of a data set, or a fact worth knowing.

    level: "error" (training would stop, or its score be wrong), "warning" or "note". kind: a word or two for programs.
    samples: names of all images concerned.
    """

    level: str
    kind: str
    split: str
    message: str
    advice: str
    samples: tuple[str, ...] = ()


def find_issues(splits: Sequence[SplitStatistics], config: InspectConfig) -> list[Issue]:
    """Returns the issues of each split, then those between the first split and the others. One issue may concern many images."""
    issues: list[Issue] = []
    for stats in splits:
        issues += _file_issues(stats, config.data.on_bad_sample)
        issues += _label_issues(stats, config.data)
        issues += _image_issues(stats, config)
        issues += _class_issues(stats, splits[0], config.data)
    for stats in splits[1:]:
        issues += _leakage(splits[0], stats)
    return issues


def _file_issues(stats: SplitStatistics, on_bad_sample: str) -> Iterator[Issue]:
    level, advice = "error", "Fix the file, or leave such samples out with --on_bad_sample=skip."
    if on_bad_sample == "skip":
        level, advice = "warning", "It is left out (--on_bad_sample=skip)."
    for name, line in stats.bad:
        yield Issue(level, "bad sample", stats.split, line, advice, (name,))
    if not stats.samples:
        yield Issue("error", "no samples", stats.split, "no sample can be used.", "Fix the files above.")
    for line in getattr(stats.dataset, "warnings", ()):
        yield Issue("warning", "data set", stats.split, line, "Check whether this is intended.")
    for note, names in stats.notes.items():
        advice = "Check the examples." if "--exif" in note else "Nothing to do if it is transparency."
        yield Issue("warning", "reading", stats.split, f"{describe_note(note, names)}.", advice, tuple(names))


def _label_issues(stats: SplitStatistics, data: DataConfig) -> Iterator[Issue]:
    ignore = stats.dataset.ignore_index
    select = _selector(stats)
    if not getattr(stats.dataset, "labelled", True):
        yield Issue("error", "unlabelled", stats.split, "the split has no annotations.", "Use it for kseg.predict only.")
        return
    if reason := unclear_void(stats.dataset, [bytes(np.flatnonzero(s.counts).tolist()) for s in stats.samples.values()]):
        yield Issue("error", "value 255", stats.split, f"{reason}.", "Otherwise 255 is ignored, and one class is left.")
    if names := select(lambda sample: sample.counts.sum() == sample.counts[ignore]):
        level = "error" if len(names) == len(stats.samples) else "warning"
        message = f"every pixel is ignored in {_images(names, stats)}."
        yield Issue(level, "nothing labelled", stats.split, message, "Label them, or leave them out.", names)
    if names := select(lambda sample: stats.dataset.class_names[0] == "background" and sample.counts[0] == sample.counts.sum()):
        message = f"nothing but background in {_images(names, stats)}."
        yield Issue("warning", "only background", stats.split, message, "Check for missing annotations.", names)
    if stats.pixels and stats.ignored > stats.pixels / 2:
        message = f"{stats.ignored / stats.pixels:.1%} of all pixels are ignored."
        if not data.background and is_read("background", data.dataset):
            advice = "--background makes a class of the pixels without annotation."
        else:
            advice = "Check which classes are ignored."
        yield Issue("warning", "much ignored", stats.split, message, advice)
    elif stats.ignored:
        message = f"{stats.ignored / stats.pixels:.1%} of all pixels are ignored (void)."
        yield Issue("note", "ignored", stats.split, message, "They do not train or count; nothing to do if this is intended.")
    if names := select(lambda sample: sample.tiny > 0):
        number = sum(sample.tiny for sample in stats.samples.values())
        regions = "1 region has" if number == 1 else f"{number:,} regions have"
        message = f"{regions} fewer than {TINY} pixels, in {_images(names, stats)}."
        advice = "Such small regions are hard to learn; check the edges of annotations."
        yield Issue("note", "tiny regions", stats.split, message, advice, names)
    if names := select(lambda sample: sample.overlap > 0):
        share = sum(sample.overlap for sample in stats.samples.values()) / stats.pixels
        message = f"annotations overlap on {share:.1%} of all pixels, in {_images(names, stats)}."
        advice = "The smaller one is painted over the larger one; check the examples."
        yield Issue("note", "overlaps", stats.split, message, advice, names)


def _image_issues(stats: SplitStatistics, config: InspectConfig) -> Iterator[Issue]:
    select = _selector(stats)
    if names := select(lambda sample: sample.deviation < CONSTANT):
        message = f"nearly one colour (standard deviation of grey levels below {CONSTANT:g}): {_images(names, stats)}."
        yield Issue("warning", "constant image", stats.split, message, "Check for damaged or black files.", names)
    if names := select(lambda sample: max(sample.size) > _ASPECT * min(sample.size)):
        message = f"one side is more than {_ASPECT:g} times the other in {_images(names, stats)}."
        advice = "Resizing distorts them; crop them, or leave them out."
        yield Issue("warning", "extreme shape", stats.split, message, advice, names)
    height, width = config.image_size

    def distorted(sample: SampleStatistics) -> bool:
        change = (sample.size[0] / sample.size[1]) / (height / width)
        return max(change, 1 / change) > _DISTORTION

    if names := select(distorted):
        message = f"--image_size={height}x{width} distorts {_images(names, stats)} by more than {_DISTORTION:g}."
        yield Issue("note", "distorted", stats.split, message, "Choose an --image_size closer to the images' shape.", names)
    groups = defaultdict(list)
    for sample in stats.samples.values():
        groups[sample.digest].append(sample.name)
    for names in map(tuple, groups.values()):
        if len(names) > 1:
            message = f"{len(names)} images are the same: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}."
            yield Issue("warning", "duplicates", stats.split, message, "Keep one of them.", names)
    near = _near_duplicates(stats, stats)
    if near is None:
        message = "there are too many images to compare each pair; only exact duplicates are reported."
        yield Issue("note", "not compared", stats.split, message, "Nothing to do.")
    elif 2 * len(near) > len(stats.samples):
        message = f"{_images(near, stats)} look nearly like another one of the split, as frames of one clip do."
        advice = "The split has fewer scenes than images: its score says little about other scenes."
        yield Issue("warning", "near duplicates", stats.split, message, advice, near)


def _class_issues(stats: SplitStatistics, train: SplitStatistics, data: DataConfig) -> Iterator[Issue]:
    names, counts = stats.dataset.class_names, stats.counts
    if stats is not train and names != train.dataset.class_names:
        message = f"its classes differ from those of {train.split}: {', '.join(names)}."
        yield Issue("error", "other classes", stats.split, message, "Use the same categories in all splits.")
        return
    for name, pixels, train_pixels in zip(names, counts.pixels, train.counts.pixels, strict=True):
        if not pixels:
            message = f"class {name!r} does not occur."
            advice = f"Label it{_leaving_out(stats, name, data)}." if stats is train else "It will have no score."
            yield Issue("warning", "absent class", stats.split, message, advice)
        elif not train_pixels:
            message = f"class {name!r} occurs here, but not in {train.split}."
            yield Issue("warning", "untrained class", stats.split, message, "It cannot be learnt; split the data again.")
        elif stats is train and pixels < _RARE * counts.pixels.sum():
            message = f"class {name!r} has less than {_RARE:.1%} of the labelled pixels."
            yield Issue("note", "rare class", stats.split, message, "Consider --class_weights=median_frequency.")
    if stats is train and getattr(stats.dataset, "category_ids", None):
        roots = [match[1] if (match := re.fullmatch(r"(.+) \[-?\d+\]", name)) else None for name in names]
        for root in sorted({root for root in roots if root and roots.count(root) > 1}):
            same = [name for name, other in zip(names, roots, strict=True) if other == root]
            message = f"{len(same)} categories share the name {root!r}; they are the classes {', '.join(same)}."
            advice = f"Rename one{_leaving_out(stats, same[0], data)}."
            yield Issue("warning", "shared name", stats.split, message, advice)


def _leaving_out(stats: SplitStatistics, name: str, data: DataConfig) -> str:
    """Returns how to train without a class, as the end of a sentence; "" if the source has no flag for it."""
    if not is_read("ignore_categories", data.dataset) or len(stats.dataset.class_names) < 2:
        return ""
    ids = getattr(stats.dataset, "category_ids", None)
    if ids and ids[stats.dataset.class_names.index(name)] is None:  # the pixels without annotation
        return ", or leave it out with --nobackground"
    flag = as_flag("ignore_categories", (*data.ignore_categories, name))
    return f", or leave it out with {shlex.quote(flag)}"


def _leakage(train: SplitStatistics, stats: SplitStatistics) -> Iterator[Issue]:
    known = defaultdict(list)
    for sample in train.samples.values():
        known[sample.digest].append(sample.name)
    leaked = [sample for sample in stats.samples.values() if sample.digest in known]
    for sample in leaked:
        message = f"{sample.name} is the same image as {known[sample.digest][0]} of {train.split}: leakage."
        yield Issue("error", "leakage", stats.split, message, "Remove it from one of the splits.", (sample.name,))
    near = _near_duplicates(stats, train)
    names = tuple(name for name in near or () if name not in {sample.name for sample in leaked})
    if names:
        message = f"{_images(names, stats)} look nearly like one of {train.split}, as frames of one clip do."
        advice = "Keep all frames of a clip in one split; otherwise the score is too good."
        yield Issue("warning", "near leakage", stats.split, message, advice, names)


def _near_duplicates(stats: SplitStatistics, others: SplitStatistics) -> tuple[str, ...] | None:
    """Names of images with a nearly equal thumbnail among the `others`, itself not counted; None if there are too many pairs."""
    if len(stats.samples) * len(others.samples) > _MAX_COMPARISONS:
        return None
    if not stats.samples or not others.samples:
        return ()
    thumbnails = np.stack([sample.thumbnail for sample in others.samples.values()]).astype("int16")
    names = []
    for place, sample in enumerate(stats.samples.values()):
        distance = np.abs(thumbnails - sample.thumbnail).mean(1)
        if stats is others:
            distance[place] = np.inf
        if distance.min() < NEAR_DUPLICATE:
            names.append(sample.name)
    return tuple(names)


def _selector(stats: SplitStatistics) -> Callable[[Callable[[SampleStatistics], bool]], tuple[str, ...]]:
    return lambda test: tuple(sample.name for sample in stats.samples.values() if test(sample))


def _images(names: Sequence[str], stats: SplitStatistics) -> str:
    if len(names) == 1:
        return f"1 of {len(stats.samples)} images ({names[0]})"
    return f"{len(names)} of {len(stats.samples)} images (first: {names[0]})"
