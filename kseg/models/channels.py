"""Adapts pretrained kernels, means and stds of RGB to images with another number of channels."""

import numpy as np

from kseg.utils.errors import KsegError


def adapt_kernel(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Adapts the kernel of a first convolution to another number of channels, as smp's patch_first_conv does.

    kernel: [height, width, 3, filters], or 3n inputs for a layer that sees the RGB of n pixels one after the other. One channel
    gets the sum over RGB. More channels get R, G, B, R, ... times 3 / channels, which keeps the size of the response. Returns
    float32 [height, width, channels or n * channels, filters].
    """
    if channels == 3:
        return kernel
    *sides, inputs, filters = kernel.shape
    rgb = kernel.reshape(*sides, inputs // 3, 3, filters)
    if channels == 1:
        adapted = rgb.sum(axis=-2, keepdims=True)
    else:
        adapted = rgb[..., np.arange(channels) % 3, :] * np.float32(3 / channels)
    return adapted.reshape(*sides, inputs // 3 * channels, filters)


def channel_statistics(
    mean: tuple[float, ...], std: tuple[float, ...], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns (mean, std) for images of `channels` channels from those of RGB.

    One channel gets the average of the three. More channels get R, G, B, R, ..., as in adapt_kernel. Raises KsegError unless mean
    and std have three values or `channels` values.
    """
    if len(mean) == len(std) == channels:
        return tuple(mean), tuple(std)
    if len(mean) != 3 or len(std) != 3:
        raise KsegError(
            f"normalization has {len(mean)} means and {len(std)} stds, the images have {channels} channels; give one for each"
        )
    if channels == 1:
        return (float(np.mean(mean)),), (float(np.mean(std)),)
    return tuple(mean[i % 3] for i in range(channels)), tuple(std[i % 3] for i in range(channels))
