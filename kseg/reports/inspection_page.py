"""Writes the page of kseg.inspect_data: statistics, issues and examples of a data set."""

from pathlib import Path
from typing import Any

import numpy as np

from kseg.config import InspectConfig
from kseg.data.augmentation.augmenter import Augmenter, sample_seed
from kseg.data.inspection.inspect import Inspection
from kseg.data.inspection.statistics import SplitStatistics
from kseg.data.palette import hex_colors, overlay
from kseg.reports.figures import share_chart, size_chart
from kseg.reports.html import chart_image, template, write_page
from kseg.utils.images import data_uri, encode, shrink

_OVERLAYS = 3  # pictures in the first section
_NAMED = 12  # images listed for an issue; inspection.json lists all


def write_inspection_page(path: Path, inspection: Inspection, config: InspectConfig) -> None:
    """Writes the page. config: samples is the number of examples; image_size, augment and seed augment them as in the first epoch
    of training.
    """
    splits, names = inspection.splits, inspection.splits[0].dataset.class_names
    colors = hex_colors(len(names))
    counts = {split.split: split.counts for split in splits if split.dataset.class_names == names}
    shares = {split: count.pixels / max(count.pixels.sum(), 1) for split, count in counts.items()}
    charts = {"shares": share_chart(names, shares), "sizes": size_chart({split.split: split.sizes for split in splits})}
    examples, values = _examples(inspection, config)
    classes = [
        {
            "name": name,
            "color": colors[index],
            "splits": [(shares[split][index], counts[split].images[index]) for split in counts],
            "weights": [weights[name] for weights in inspection.class_weights.values()],
        }
        for index, name in enumerate(names)
    ]
    page = template("inspection.html.jinja").render(
        config=config,
        inspection=inspection,
        splits=splits,
        counted=list(counts),
        classes=classes,
        formulas=list(inspection.class_weights),
        levels={level: [issue for issue in inspection.issues if issue.level == level] for level in ("error", "warning", "note")},
        named=_NAMED,
        charts={name: chart_image(png) for name, png in charts.items()},
        readings=[_reading(split) for split in splits if getattr(split.dataset, "reading", None) is not None],
        overlays=[(example["name"], example["pictures"][1][1]) for example in examples[:_OVERLAYS]],
        examples=examples,
        legend=[(names[value], colors[value]) for value in sorted(values) if value < len(names)],
    )
    write_page(path, page)


def _reading(split: SplitStatistics) -> dict[str, Any]:
    """Returns what was decided about a split: files, what each value became, and what was left out."""
    reading, details = split.dataset.reading, getattr(split.dataset, "left_out", ())  # type: ignore[attr-defined]
    colors = dict(zip(split.dataset.class_names, hex_colors(len(split.dataset.class_names)), strict=True))
    return {
        "split": split.split,
        "source": reading.source,
        "meanings": [(key, name, colors.get(name)) for key, name in reading.meanings],
        "left_out": reading.left_out,
        "details": details[:_NAMED],
        "more": max(0, len(details) - _NAMED),
    }


def _examples(inspection: Inspection, config: InspectConfig) -> tuple[list[dict[str, Any]], set[int]]:
    """Returns examples of the first split (plain, with label, augmented), and the label values in them."""
    split = inspection.splits[0]
    usable = list(split.samples)
    number = min(config.samples, len(usable))
    chosen = sorted(np.random.default_rng(config.seed).choice(usable, number, replace=False).tolist()) if number else []
    augmenter = Augmenter(config.augment, config.image_size)
    examples, values = [], set()
    for index in chosen:
        sample = split.dataset.load(index)
        image, nearest = shrink(sample.image)
        label = sample.label[nearest]
        small, small_label = augmenter(sample.image, sample.label, sample_seed(config.seed, 0, index))
        pictures = [image, overlay(image, label), overlay(small, small_label)]
        captions = ("plain", "with label", "augmented, with label")
        examples.append(
            {
                "name": sample.name,
                "size": f"{sample.label.shape[1]}x{sample.label.shape[0]}",
                "ignored": (sample.label == split.dataset.ignore_index).mean(),
                "pictures": [
                    (caption, data_uri(encode(picture, "JPEG"), "JPEG"))
                    for caption, picture in zip(captions, pictures, strict=True)
                ],
            }
        )
        values |= {*np.unique(sample.label).tolist()}
    return examples, values
