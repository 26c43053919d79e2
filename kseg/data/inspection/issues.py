"""The defects of a data set, from the facts that kseg.data.inspection.statistics gathered."""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from kseg.config import InspectConfig
from kseg.data.inspection.statistics import TINY, SampleStatistics, SplitStatistics

CONSTANT = 2.0
"""Pictures whose grey levels deviate less are called nearly constant."""
ALIKE = 4.0
"""Pictures whose thumbnails differ by fewer grey levels (mean of absolute differences) are called nearly the same: frames of one
clip, or one photo stored twice."""
_COMPARISONS = 2**24  # Pairs of thumbnails, at most; more would take minutes.
_ASPECT = 4.0
_DISTORTION = 1.5
_RARE = 0.001


@dataclass(frozen=True)
class Issue:
    """Something wrong, or worth knowing.

    level: "error" (training would stop, or its score be untrue), "warning" or "note". kind: a word or two for programs.
    samples: names of the images it is about, all of them.
    """

    level: str
    kind: str
    split: str
    message: str
    advice: str
    samples: tuple[str, ...] = ()


def find_issues(splits: Sequence[SplitStatistics], config: InspectConfig) -> list[Issue]:
    """All defects, split by split and then between the splits; what is about many images is one defect with their names."""
    found: list[Issue] = []
    for facts in splits:
        found += _of_files(facts, config.data.on_bad_sample)
        found += _of_labels(facts)
        found += _of_pictures(facts, config)
        found += _of_classes(facts, splits[0])
    for facts in splits[1:]:
        found += _between(splits[0], facts)
    return found


def _of_files(facts: SplitStatistics, on_bad_sample: str) -> Iterator[Issue]:
    level, advice = "error", "Mend the file, or leave such samples out with --on_bad_sample=skip."
    if on_bad_sample == "skip":
        level, advice = "warning", "It is left out (--on_bad_sample=skip)."
    for name, line in facts.bad:
        yield Issue(level, "bad sample", facts.split, line, advice, (name,))
    if not facts.samples:
        yield Issue("error", "no samples", facts.split, "no sample is usable.", "Mend the files above.")
    for line in getattr(facts.dataset, "warnings", ()):
        yield Issue("warning", "data set", facts.split, line, "Look whether the annotations fit their images.")


def _of_labels(facts: SplitStatistics) -> Iterator[Issue]:
    ignore = facts.dataset.ignore_index
    pick = _picker(facts)
    if not getattr(facts.dataset, "labelled", True):
        yield Issue("error", "unlabelled", facts.split, "the split has no annotations.", "Use it for kseg.predict only.")
        return
    if names := pick(lambda sample: sample.counts.sum() == sample.counts[ignore]):
        every = len(names) == len(facts.samples)
        message = f"every pixel is ignored in {_images(names, facts)}."
        yield Issue(
            "error" if every else "warning", "nothing labelled", facts.split, message, "Label them, or leave them out.", names
        )
    if names := pick(lambda sample: facts.dataset.class_names[0] == "background" and sample.counts[0] == sample.counts.sum()):
        message = f"nothing but background in {_images(names, facts)}."
        yield Issue("warning", "only background", facts.split, message, "Look whether annotations are missing.", names)
    if facts.pixels and facts.ignored > facts.pixels / 2:
        message = f"{facts.ignored / facts.pixels:.1%} of all pixels are ignored."
        yield Issue("warning", "much ignored", facts.split, message, "Check --background and --ignore_categories.")
    elif facts.ignored:
        message = f"{facts.ignored / facts.pixels:.1%} of all pixels are ignored (void)."
        yield Issue("note", "ignored", facts.split, message, "They neither train nor count; nothing to do if that is meant.")
    if names := pick(lambda sample: sample.tiny > 0):
        number = sum(sample.tiny for sample in facts.samples.values())
        what = "1 region has" if number == 1 else f"{number:,} regions have"
        message = f"{what} fewer than {TINY} pixels, in {_images(names, facts)}."
        yield Issue(
            "note", "tiny regions", facts.split, message, "Crumbs of annotation are hard to learn; look at the edges.", names
        )
    if names := pick(lambda sample: sample.overlap > 0):
        share = sum(sample.overlap for sample in facts.samples.values()) / facts.pixels
        message = f"annotations overlap on {share:.1%} of all pixels, in {_images(names, facts)}."
        yield Issue(
            "note", "overlaps", facts.split, message, "The smaller one is painted over the larger; look at the pictures.", names
        )


def _of_pictures(facts: SplitStatistics, config: InspectConfig) -> Iterator[Issue]:
    pick = _picker(facts)
    if names := pick(lambda sample: sample.deviation < CONSTANT):
        message = f"nearly one colour (grey levels deviate by less than {CONSTANT:g}): {_images(names, facts)}."
        yield Issue("warning", "constant image", facts.split, message, "Look whether the files are damaged or black.", names)
    if names := pick(lambda sample: max(sample.size) > _ASPECT * min(sample.size)):
        message = f"one side is more than {_ASPECT:g} times the other in {_images(names, facts)}."
        yield Issue(
            "warning", "extreme shape", facts.split, message, "Resizing will distort them; cut them, or leave them out.", names
        )
    height, width = config.image_size

    def distorted(sample):
        change = (sample.size[0] / sample.size[1]) / (height / width)
        return max(change, 1 / change) > _DISTORTION

    if names := pick(distorted):
        message = f"--image_size={height}x{width} distorts {_images(names, facts)} by more than {_DISTORTION:g}."
        yield Issue("note", "distorted", facts.split, message, "Choose an --image_size nearer to the pictures' shape.", names)
    groups = defaultdict(list)
    for sample in facts.samples.values():
        groups[sample.digest].append(sample.name)
    for names in map(tuple, groups.values()):
        if len(names) > 1:
            message = f"{len(names)} images are the same picture: {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}."
            yield Issue("warning", "duplicates", facts.split, message, "Keep one of them.", names)
    alike = _alike(facts, facts)
    if alike is None:
        message = "too many images to compare each with each; only exact duplicates were looked for."
        yield Issue("note", "not compared", facts.split, message, "Nothing to do.")
    elif 2 * len(alike) > len(facts.samples):
        message = f"{_images(alike, facts)} look nearly like another of the split, as frames of one clip do."
        advice = "It shows fewer scenes than images: a score on it says little about others."
        yield Issue("warning", "alike", facts.split, message, advice, alike)


def _of_classes(facts: SplitStatistics, train: SplitStatistics) -> Iterator[Issue]:
    names, counts = facts.dataset.class_names, facts.counts
    if facts is not train and names != train.dataset.class_names:
        message = f"its classes differ from those of {train.split}: {', '.join(names)}."
        yield Issue("error", "other classes", facts.split, message, "Make the categories of the splits agree.")
        return
    for name, pixels, known in zip(names, counts.pixels, train.counts.pixels, strict=True):
        if not pixels:
            message = f"class {name!r} does not occur."
            advice = "Label it, or leave it out with --ignore_categories." if facts is train else "Its score will be missing."
            yield Issue("warning", "absent class", facts.split, message, advice)
        elif not known:
            message = f"class {name!r} occurs here, but not in {train.split}."
            yield Issue("warning", "untrained class", facts.split, message, "It cannot be learnt; split the data anew.")
        elif facts is train and pixels < _RARE * counts.pixels.sum():
            message = f"class {name!r} has less than {_RARE:.1%} of the labelled pixels."
            yield Issue("note", "rare class", facts.split, message, "Consider --class_weights=median_frequency.")
    if facts is train:
        roots = [match[1] if (match := re.fullmatch(r"(.+) \[-?\d+\]", name)) else None for name in names]
        for root in sorted({root for root in roots if root and roots.count(root) > 1}):
            same = [name for name, other in zip(names, roots, strict=True) if other == root]
            message = f"{len(same)} categories share the name {root!r}; they are the classes {', '.join(same)}."
            yield Issue(
                "warning", "shared name", facts.split, message, "Rename one, or leave it out with --ignore_categories=ID."
            )


def _between(train: SplitStatistics, facts: SplitStatistics) -> Iterator[Issue]:
    known = defaultdict(list)
    for sample in train.samples.values():
        known[sample.digest].append(sample.name)
    leaked = [sample for sample in facts.samples.values() if sample.digest in known]
    for sample in leaked:
        message = f"{sample.name} is the same picture as {known[sample.digest][0]} of {train.split}: leakage."
        yield Issue("error", "leakage", facts.split, message, "Remove it from one of the splits.", (sample.name,))
    alike = _alike(facts, train)
    names = tuple(name for name in alike or () if name not in {sample.name for sample in leaked})
    if names:
        message = f"{_images(names, facts)} look nearly like one of {train.split}, as frames of one clip do."
        advice = "Keep the frames of a clip in one split, else the score is too good."
        yield Issue("warning", "near leakage", facts.split, message, advice, names)


def _alike(facts: SplitStatistics, others: SplitStatistics) -> tuple[str, ...] | None:
    """Names of the images with a nearly equal thumbnail among `others`, an image itself left out; None if there are too many."""
    if len(facts.samples) * len(others.samples) > _COMPARISONS:
        return None
    if not facts.samples or not others.samples:
        return ()
    theirs = np.stack([sample.thumbnail for sample in others.samples.values()]).astype("int16")
    names = []
    for place, sample in enumerate(facts.samples.values()):
        distance = np.abs(theirs - sample.thumbnail).mean(1)
        if facts is others:
            distance[place] = np.inf
        if distance.min() < ALIKE:
            names.append(sample.name)
    return tuple(names)


def _picker(facts: SplitStatistics) -> Callable[[Callable[[SampleStatistics], bool]], tuple[str, ...]]:
    return lambda test: tuple(sample.name for sample in facts.samples.values() if test(sample))


def _images(names: Sequence[str], facts: SplitStatistics) -> str:
    if len(names) == 1:
        return f"1 of {len(facts.samples)} images ({names[0]})"
    return f"{len(names)} of {len(facts.samples)} images (first: {names[0]})"
