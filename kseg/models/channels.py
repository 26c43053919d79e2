"""Images that do not have three channels: what pretrained weights, a mean and a std of RGB become."""

import numpy as np

from kseg.utils.errors import KsegError


def adapt_kernel(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Makes the first convolution's kernel fit another number of channels, as smp's patch_first_conv does.

    kernel: [height, width, 3, filters], or with 3n inputs where the layer sees n pixels' RGB one after the other. One channel
    gets the sum over RGB; more are R, G, B, R, ... times 3 / channels, so that the response keeps its size. Returns [height,
    width, channels or n * channels, filters], float32.
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

    One channel gets the average of the three; more get R, G, B, R, ..., as the weights do in adapt_kernel. Raises KsegError if
    mean and std are neither three values nor `channels`.
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
