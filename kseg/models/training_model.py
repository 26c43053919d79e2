"""Base class of models that compute their loss in their own way."""

from typing import ClassVar

import keras


class TrainingModel(keras.Model):
    """A functional model with a loss computation of its own, used while training.

    SETTINGS: the attributes that a .keras file keeps, by their name in the file.
    """

    SETTINGS: ClassVar[dict[str, str]] = {}

    def get_config(self):
        return {**super().get_config(), **{name: getattr(self, attribute) for name, attribute in self.SETTINGS.items()}}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        settings = {attribute: config.pop(name) for name, attribute in cls.SETTINGS.items()}
        model = super().from_config(config, custom_objects)
        for attribute, value in settings.items():
            setattr(model, attribute, value)
        return model
