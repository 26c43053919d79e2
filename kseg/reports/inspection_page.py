"""The page of kseg.inspect_data: numbers, defects and pictures of a data set in one HTML file."""

from pathlib import Path
from typing import Any

import numpy as np

from kseg.config import InspectConfig
from kseg.data.augmentation.augmenter import Augmenter, sample_seed
from kseg.data.inspection.inspect import Inspection
from kseg.data.palette import IGNORED, overlay
from kseg.reports.figures import share_chart, size_chart
from kseg.reports.html import css_width, data_uri, encode, hex_colors, shrink, template, write_page
from kseg.utils.errors import KsegError

_NAMED = 12  # images that a defect names on the page; the JSON file has all


def write_inspection_page(path: Path, inspection: Inspection, config: InspectConfig) -> None:
    """Writes the page. Its pictures are config.samples of the first split: as they are, with their labels, and augmented as
    training would in the first epoch (image_size, augment and seed of the config).
    """
    splits, names = inspection.splits, inspection.splits[0].dataset.class_names
    colors = hex_colors(len(names))
    same = [facts for facts in splits if facts.dataset.class_names == names]
    counts = {facts.split: facts.counts for facts in same}
    shares = {split: count.pixels / max(count.pixels.sum(), 1) for split, count in counts.items()}
    charts = {"shares": share_chart(names, shares), "sizes": size_chart({facts.split: facts.sizes for facts in splits})}
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
        levels={level: [d for d in inspection.defects if d.level == level] for level in ("error", "warning", "note")},
        named=_NAMED,
        charts={name: {"src": data_uri(png, "PNG"), "width": css_width(png)} for name, png in charts.items()},
        examples=examples,
        legend=[(names[value], colors[value]) for value in sorted(values) if value < len(names)],
        ignored="#{:02x}{:02x}{:02x}".format(*IGNORED),
    )
    write_page(path, page)


def _examples(inspection: Inspection, config: InspectConfig) -> tuple[list[dict[str, Any]], set[int]]:
    """Returns the pictures of the page, and the label values that occur in them."""
    facts = inspection.splits[0]
    usable = list(facts.samples)
    number = min(config.samples, len(usable))
    chosen = sorted(np.random.default_rng(config.seed).choice(usable, number, replace=False).tolist()) if number else []
    augmenter = Augmenter(config.augment, config.image_size)
    examples, values = [], set()
    for index in chosen:
        sample = facts.dataset.load(index)
        image, nearest = shrink(sample.image)
        label = sample.label[nearest]
        small, small_label = augmenter(sample.image, sample.label, sample_seed(config.seed, 0, index))
        pictures = [image, overlay(image, label), overlay(small, small_label)]
        captions = ("as it is", "with its label", "augmented, with its label")
        examples.append(
            {
                "name": sample.name,
                "size": f"{sample.label.shape[1]}x{sample.label.shape[0]}",
                "ignored": (sample.label == facts.dataset.ignore_index).mean(),
                "pictures": [
                    (caption, data_uri(encode(picture, "JPEG"), "JPEG"))
                    for caption, picture in zip(captions, pictures, strict=True)
                ],
            }
        )
        values |= {*np.unique(sample.label).tolist()}
    return examples, values


def inspect_data(config: InspectConfig):
    """Returns (Inspection, the page's path). Raises KsegError for whatever hinders looking."""
    from kseg.data.augmentation.augmenter import Augmenter
    from kseg.data.inspection.inspect import inspect
    from kseg.utils.files import write_text

    Augmenter(config.augment, config.image_size)  # a mistyped name is said before the data are read
    folder = Path(config.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        inspection = inspect(config)
        write_text(folder / "inspection.json", inspection.to_json())
        write_inspection_page(folder / "inspection.html", inspection, config)
    except OSError as error:
        raise KsegError(f"--output={folder}: cannot be written ({error.strerror or error})") from None
    return inspection, folder / "inspection.html"
