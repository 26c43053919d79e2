"""Writes reports of images predicted with known errors, and parses the pages."""

import base64
import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from kseg.config import DataConfig, TrainConfig
from kseg.data.dataset import Sample
from kseg.metrics.evaluation import Evaluation
from kseg.reports.report_page import write_report
from kseg.runtime.run_dir import RunDir

CONFIG = TrainConfig(data=DataConfig(dataset="coco", data_dir="data/streets"), backbone="keras_cv/resnet18", image_size=(96, 128))


class Pictures:
    """Images whose class stripes are predicted with errors[i] of the pixels wrong."""

    ignore_index = 255

    def __init__(self, errors, class_names=("background", "road", "car"), sizes=None, names=None):
        self.class_names, self.errors = tuple(class_names), errors
        self.sizes = sizes or [(40, 60)] * len(errors)
        self.names = names or [f"image_{i:02}.jpg" for i in range(len(errors))]
        self.asked = []

    def __len__(self):
        return len(self.errors)

    def size(self, index):
        return self.sizes[index]

    def name(self, index):
        return self.names[index]

    def load(self, index):
        height, width = self.sizes[index]
        label = np.arange(height * width).reshape(height, width) // 4 % len(self.class_names)
        label[: height // 8] = 255
        image = np.zeros((height, width, 3), "uint8")
        image[..., 0], image[..., 1], image[..., 2] = np.linspace(0, 255, width), np.linspace(0, 255, height)[:, None], 10 * index
        return Sample(image, label.astype("uint8"), self.names[index])

    def predict(self, index):
        label = self.load(index).label.astype("int32")
        classes = len(self.class_names)
        wrong = np.random.default_rng(index).random(label.shape) < self.errors[index]
        prediction = np.where(label == 255, 0, (label + wrong) % classes).astype("int32")
        counted = label != 255
        counts = np.bincount(label[counted] * classes + prediction[counted], minlength=classes * classes)
        return counts.reshape(classes, classes), prediction

    def predictor(self, indices):
        for index in indices:
            self.asked.append(index)
            yield self.predict(index)

    def evaluation(self):
        return Evaluation(self.class_names, np.stack([self.predict(index)[0] for index in range(len(self))]))


class Page(HTMLParser):
    """Text, tags and image contents of a report."""

    def __init__(self, run):
        super().__init__()
        self.source = run.report.read_text(encoding="utf-8")
        self.tags, self.images, self.words, self.rows = [], [], [], []
        self._open, self._cell = "", False
        self.feed(self.source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self._open = tag
        if tag == "img":
            self.images.append(dict(attributes))
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self._cell = True

    def handle_endtag(self, tag):
        self._open = ""
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data):
        if self._open == "style":
            return
        self.words.append(data)
        if self._cell:
            self.rows[-1][-1] += data.strip()


def report(path, pictures, config=CONFIG, evaluation=None, best_epoch=2):
    run = RunDir(path)
    path.mkdir(exist_ok=True)
    write_report(run, config, evaluation or pictures.evaluation(), pictures, pictures.predictor, best_epoch=best_epoch)
    return run, Page(run)


def write_metrics(path, rows):
    path.mkdir(exist_ok=True)
    header = "epoch,learning_rate,loss,mean_iou,seconds,val_loss,val_mean_iou"
    (path / "metrics.csv").write_text("\n".join([header, *rows]) + "\n")


def decode(source):
    """Reads a data URI or a file to the end."""
    if isinstance(source, str):
        assert source.startswith("data:image/")
        content = base64.b64decode(source.partition(",")[2], validate=True)
    else:
        content = source.read_bytes()
    picture = Image.open(io.BytesIO(content))
    picture.load()
    return picture
