"""How near reconstructions come, whether they single out a person, and what codes say of labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

Floats = npt.NDArray[np.float64]
GAUSSIAN = 11  # pixels of the usual window
C1, C2 = 0.01**2, 0.03**2  # keep the quotients of SSIM finite, for a range of 1


def structural_similarity(drawn: Tensor, true: Tensor) -> Tensor:
    """(N,) SSIM of (N,3,H,W) images in [0,1]: Gaussian window of 11 pixels, σ = 1.5.

    The mean over all pixels, borders reflected. Strips narrower than 11 pixels get a uniform window
    of the largest odd size that fits. Source: Wang, Bovik, Sheikh and Simoncelli 2004.

    The values are those of torchmetrics, which takes five seconds to import: each command waits.
    """
    least = min(true.shape[2:])
    if least >= GAUSSIAN:
        distance = torch.arange(GAUSSIAN, dtype=true.dtype, device=true.device) - GAUSSIAN // 2
        weight = torch.exp(-((distance / 1.5) ** 2) / 2)
        weight = weight / weight.sum()
        window = weight[:, None] * weight
    else:
        size = least - 1 + least % 2
        window = true.new_full((size, size), 1 / size**2)
    margin = window.shape[-1] // 2
    maps = torch.cat([drawn, true, drawn * drawn, true * true, drawn * true])
    maps = F.pad(maps, [margin] * 4, mode="reflect")
    channels = true.shape[1]
    local = F.conv2d(maps, window.expand(channels, 1, -1, -1), groups=channels)
    mean, true_mean, square, true_square, product = local.chunk(5)

    variances = (square - mean**2).clamp(min=0) + (true_square - true_mean**2).clamp(min=0)
    covariance = product - mean * true_mean
    alike = (2 * (mean * true_mean) + C1) * (2 * covariance + C2)
    return (alike / ((mean**2 + true_mean**2 + C1) * (variances + C2))).flatten(1).mean(dim=1)


def reconstruction_columns(drawn: Tensor, true: Tensor) -> dict[str, Floats]:
    """mse, psnr (dB) and ssim of each of N reconstructions; the latter two NaN for tables.

    PSNR is NaN where a reconstruction is exact: it would be infinite.
    """
    square = (drawn - true).flatten(1).double().square().mean(dim=1)
    nothing = torch.full_like(square, torch.nan)
    columns = {"mse": square, "psnr": nothing, "ssim": nothing}
    if true.dim() == 4:
        columns["psnr"] = torch.where(square > 0, -10 * square.log10(), nothing)
        columns["ssim"] = structural_similarity(drawn, true).double()
    return {name: values.numpy() for name, values in columns.items()}


def class_means(inputs: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
    """(N, …) for each of N wanted classes the mean of the (M, …) inputs of that class.

    What an attacker draws who knows the class and nothing else. The overall mean for a class
    without an input.
    """
    means = torch.stack(
        [
            inputs[labels == number].mean(dim=0) if bool((labels == number).any()) else
            inputs.mean(dim=0)
            for number in range(int(max(labels.max(), wanted.max())) + 1)
        ]
    )  # fmt: skip
    return means[wanted]


def pixel_distances(drawn: Tensor, pool: Tensor) -> Tensor:
    """(N,M) mean squared distances of N reconstructions to M inputs."""
    far: Tensor = torch.cdist(drawn.flatten(1).double(), pool.flatten(1).double())
    return far.square() / drawn[0].numel()


def reidentified(
    distances: Tensor, truth: Tensor, labels: Tensor, *, candidates: int, seed: int
) -> tuple[Floats, Floats]:
    """(N,) whether the true one of `candidates` inputs of the same class is nearest, and chance.

    distances: (N,M) to M inputs of classes `labels` (M,); truth (N,) the true place of each.
    Among k equally near ones the true one is hit with probability 1/k. The others are drawn by the
    seed without replacement, all of them where the class has fewer; chance is then 1 over fewer.
    """
    generator = np.random.default_rng(seed)
    hits, chances = [], []
    for row, place in zip(distances.numpy(), truth.tolist(), strict=True):
        others = np.flatnonzero((labels == labels[place]).numpy())
        others = others[others != place]
        drawn = generator.choice(others, size=min(candidates - 1, len(others)), replace=False)
        far = row[np.append(drawn, place)]
        nearest = far <= far.min() * (1 + 1e-9) + 1e-12
        hits.append(float(nearest[-1]) / nearest.sum())
        chances.append(1 / len(far))
    return np.asarray(hits, np.float64), np.asarray(chances, np.float64)


def nearest_class(codes: Tensor, class_codes: Tensor) -> Tensor:
    """(N,) the class whose code is nearest; of several equally near ones, the first."""
    best: Tensor = (codes @ class_codes.T).argmax(dim=1)
    return best


def clustered(codes: Tensor, labels: Tensor, classes: int, seed: int) -> Floats:
    """(N,) of 0/1: right labels when codes are clustered blindly and clusters named at best.

    K-means with C clusters, which are matched to the classes one to one by the labels themselves:
    an upper bound on what can be read without class codes.
    """
    count = min(classes, len(codes.unique(dim=0)))
    from sklearn.cluster import KMeans  # takes a second to import

    groups = KMeans(count, n_init=5, random_state=seed % 2**32).fit_predict(codes.numpy())
    table = np.zeros((count, classes))
    np.add.at(table, (groups, labels.numpy()), 1)
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-table)
    name = np.full(count, -1)
    name[rows] = columns
    return np.asarray(name[groups] == labels.numpy(), np.float64)
