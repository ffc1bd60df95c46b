"""Every array of the group `representations` in NumPy's float64, and the public map of a sketch in Python's integers."""

from __future__ import annotations

import hashlib
import math

import numpy as np

WORD = 2**64


def u_centred(vectors):
    """The U-centred Gram matrix, by its definition."""
    n = len(vectors)
    gram = vectors @ vectors.T
    np.fill_diagonal(gram, 0)
    rows = gram.sum(axis=1)
    found = gram - np.add.outer(rows, rows) / (n - 2) + rows.sum() / ((n - 1) * (n - 2))
    np.fill_diagonal(found, 0)
    return found


def hsic_1(one, other):
    """The unbiased estimate of HSIC by Song et al. 2012, equation 5, of two sets of vectors."""
    n, ones = len(one), np.ones(len(one))
    k, other = one @ one.T, other @ other.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(other, 0)
    middle = (ones @ k @ ones) * (ones @ other @ ones) / ((n - 1) * (n - 2))
    return (np.trace(k @ other) + middle - 2 / (n - 2) * (ones @ k @ other @ ones)) / (n * (n - 3))


def cka(one, other):
    """Unbiased linear CKA."""
    return hsic_1(one, other) / math.sqrt(hsic_1(one, one) * hsic_1(other, other))


def biased_cka(one, other):
    one, other = one - one.mean(0), other - other.mean(0)
    return np.sum((one.T @ other) ** 2) / np.linalg.norm(one.T @ one) / np.linalg.norm(other.T @ other)


def splitmix64(start, place):
    word = (start + (place + 1) * 0x9E3779B97F4A7C15) % WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) % WORD
    return word ^ (word >> 31)


def sketched(centred, size=4096, seed=0):
    """The sketch of a matrix, pair by pair."""
    n = len(centred)
    found = np.zeros(size)
    start = int.from_bytes(hashlib.sha256(f"olmo_dynamics gram sketch {seed}/{n}".encode()).digest()[:8], "little")
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    for number, (i, j) in enumerate(pairs):
        word = splitmix64(start, i * n + j)
        component, sign = (number, 1) if len(pairs) <= size else (word % size, -1 if word >> 63 else 1)
        found[component] += math.sqrt(2) * sign * centred[i, j]
    return found


def mean_cosine(vectors):
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return (unit @ unit.T)[~np.eye(len(unit), dtype=bool)].mean()


def everything(vectors):
    """All numbers of one layer's vectors, by name."""
    vectors = np.asarray(vectors, dtype=np.float64)
    singular = np.linalg.svd(vectors, compute_uv=False)
    shares = singular / singular.sum() + 1e-7
    eigenvalues = np.linalg.eigvalsh(np.atleast_2d(np.cov(vectors, rowvar=False)))[::-1]
    rms = np.sqrt((vectors**2).mean(axis=0))
    centred = u_centred(vectors)
    return {
        "rank_me": math.exp(-sum(p * math.log(p) for p in shares)),
        "participation_ratio": eigenvalues.sum() ** 2 / (eigenvalues**2).sum(),
        "eigenvalue": np.pad(eigenvalues[:64], (0, max(0, 64 - len(eigenvalues))), constant_values=np.nan),
        "anisotropy": mean_cosine(vectors),
        "anisotropy_without_massive": mean_cosine(vectors[:, rms <= 10 * np.median(rms)]),
        "gram_sketch": sketched(centred),
        "gram_norm": np.linalg.norm(centred),
    }
