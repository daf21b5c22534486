"""The peer of `train_step.py`: the training step of CASE as a PyTorch program does it, with the options of `official`.

Written from the equations. As is customary, the layers are `Conv1d` of kernel 1 on (B, D, T), Sinkhorn works on the
kernel itself (not on logarithms), videos are sampled one by one in NumPy, and the optimizer is `torch.optim.Adam`. With
`linear` the same layers are products with (B * T, D), which saves a CPU the transposed copies of a convolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from casejax.methods.case import Clustered

Streams = Sequence[torch.Tensor]


class TorchCase(torch.nn.Module):
    """The network of CASE and its loss.

    Args:
      params: casejax parameters as `nnx.to_pure_dict` gives them, which are copied.
      settings: of CASE; those that name a choice must be those of `official`.
      linear: layers are products with (B * T, D), not convolutions of (B, D, T).
    """

    def __init__(self, params: dict[str, Any], settings: Clustered, *, linear: bool = False) -> None:
        super().__init__()
        self.base, self.head, self.linear = settings.base, settings.head, linear
        self.streams = torch.nn.ModuleList()
        for _, stream in sorted(params["streams"].items()):
            own = torch.nn.ParameterDict({"directions": _tensor(stream["clusters"]["directions"])})
            for layer in ("class_encoder", "classifier", "embedding_encoder", "attention"):
                own[f"{layer}_weight"] = _tensor(np.asarray(stream[layer]["kernel"]).T)
                own[f"{layer}_bias"] = _tensor(stream[layer]["bias"])
            self.streams.append(own)
        num_clusters = len(self.streams[0]["directions"])
        like = self.streams[0]["directions"]
        self.cluster_labels = like.new_full((num_clusters, 2), 1 / num_clusters)

    def project(self) -> None:
        """Put the cluster directions back on the unit sphere."""
        with torch.no_grad():
            for stream in self.streams:
                stream["directions"].copy_(functional.normalize(stream["directions"], dim=1))

    def forward(self, features: Streams, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The terms of the loss and the loss of (B, T, D) features with (B, C) labels; keeps the new Q^C."""
        head = self.head
        outputs = [self._stream(own, x) for own, x in zip(self.streams, features, strict=True)]
        cas, attention, embedding, cluster_logits = zip(*outputs, strict=True)
        with torch.no_grad():
            selected, foreground = self._select(cas, attention, labels)
            q_snippet = self._snippet_labels(cluster_logits, attention)
            share = foreground.mean()
            marginal = torch.stack([share, 1 - share])
        weights = torch.cat([q_snippet, foreground.reshape(-1, 1), 1 - foreground.reshape(-1, 1)], dim=1)
        of_clusters = [self._prototype_logits(weights, e) for e in embedding]
        with torch.no_grad():
            fused = sum(of_clusters) / len(of_clusters)
            epsilon = head.epsilon * head.cluster_temperature
            q_cluster = sinkhorn(fused / epsilon, len(fused) * marginal, head.sinkhorn_iters)
        self.cluster_labels = q_cluster

        target = labels / labels.sum(dim=1, keepdim=True) + 1e-10
        video = [torch.gather(c, 1, selected).mean(dim=1) for c in cas]
        terms = {
            "loss_video": sum(-(target * functional.log_softmax(v, dim=1)).sum(dim=1).mean() for v in video)
            / len(video),
            "loss_attention": sum(self._attention_loss(a, foreground) for a in attention),
            "loss_snippet": sum(
                -(q_snippet * functional.log_softmax(c, dim=1)).sum(dim=1).mean() for c in cluster_logits
            ),
            "loss_cluster": sum(-(q_cluster * functional.log_softmax(c, dim=1)).sum(dim=1).mean() for c in of_clusters),
        }
        terms["loss"] = (
            terms["loss_video"]
            + self.base.attention_weight * terms["loss_attention"]
            + head.snippet_weight * terms["loss_snippet"]
            + head.cluster_weight * terms["loss_cluster"]
        )
        return terms

    def _stream(self, own: torch.nn.ParameterDict, features: torch.Tensor) -> tuple[torch.Tensor, ...]:
        batch, length, dim = features.shape
        x = features.reshape(-1, dim) if self.linear else features.transpose(1, 2).contiguous()

        def layer(name: str, x: torch.Tensor) -> torch.Tensor:
            weight, bias = own[f"{name}_weight"], own[f"{name}_bias"]
            return functional.linear(x, weight, bias) if self.linear else functional.conv1d(x, weight[:, :, None], bias)

        def by_snippet(x: torch.Tensor) -> torch.Tensor:
            return x if self.linear else x.transpose(1, 2).reshape(batch * length, -1)

        cas = by_snippet(layer("classifier", functional.relu(layer("class_encoder", x))))
        hidden = functional.relu(layer("embedding_encoder", x))
        attention = by_snippet(torch.sigmoid(layer("attention", hidden)))
        embedding = by_snippet(hidden)
        clusters = self.head.head_temperature * functional.normalize(embedding, dim=1) @ own["directions"].T
        return cas.reshape(batch, length, -1), attention.reshape(batch, length), embedding, clusters

    def _select(self, cas: Streams, attention: Streams, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The top-k snippets of every video and class (B, k, C), and Q^A (B, T)."""
        weight = self.base.cas_weight
        probabilities = sum(functional.softmax(c, dim=2) for c in cas) / len(cas)
        calibrated = weight * probabilities + (1 - weight) * (sum(attention) / len(attention))[:, :, None]
        k = max(calibrated.shape[1] // self.base.top_k_divisor, 1)
        selected = calibrated.topk(k, dim=1).indices
        taken = torch.zeros_like(calibrated).scatter_(1, selected, labels[:, None, :].expand(-1, k, -1))
        return selected, (taken > 0).any(dim=2).to(labels.dtype)

    def _snippet_labels(self, cluster_logits: Streams, attention: Streams) -> torch.Tensor:
        """Q^S, with what the published program has in the place of a rank: the sorting permutation."""
        head = self.head
        flat = (sum(attention) / len(attention)).reshape(-1)
        count, num_clusters = len(flat), cluster_logits[0].shape[1]
        rank = 1 - (torch.argsort(-flat, stable=True) + 1).to(flat.dtype) / count
        distance = rank[:, None] - self.cluster_labels[None, :, 0]
        log_prior = -0.5 * (distance / head.prior_std) ** 2
        fused = sum(cluster_logits) / len(cluster_logits)
        epsilon = head.epsilon * head.head_temperature
        columns = flat.new_full((num_clusters,), count / num_clusters)
        return sinkhorn(fused / epsilon + log_prior, columns, head.sinkhorn_iters)

    def _prototype_logits(self, weights: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Logits of P^C (K, 2): cosines of the clusters with foreground and background."""
        means = functional.normalize(weights.T @ embedding / weights.sum(dim=0)[:, None], dim=1)
        return self.head.cluster_temperature * means[:-2] @ means[-2:].T

    def _attention_loss(self, attention: torch.Tensor, foreground: torch.Tensor) -> torch.Tensor:
        def side(weights: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
            q, guard = self.base.gce_exponent, 1e-7
            return (weights * (1 - (p + guard) ** q) / q).sum(dim=1) / (weights.sum(dim=1) + guard)

        return (side(foreground, attention) + side(1 - foreground, 1 - attention)).mean()


def sinkhorn(log_kernel: torch.Tensor, columns: torch.Tensor, num_iters: int) -> torch.Tensor:
    """The plan whose rows sum to 1, columns scaled first; the kernel itself is scaled, so it can overflow."""
    kernel = torch.exp(log_kernel)
    u = kernel.new_ones(len(kernel))
    for _ in range(num_iters):
        v = columns / (u @ kernel)
        u = 1 / (kernel @ v)
    return u[:, None] * kernel * v


def sample_batch(
    videos: Sequence[Sequence[np.ndarray]], labels: np.ndarray, chosen: Sequence[int], num_snippets: int, rng: Any
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Features and labels of some videos, of each a random snippet of every cell, as is customary.

    Args:
      videos: of every stream, of every video, a (length, D) array.
      labels: (V, C).
      chosen: the videos of the batch.
      num_snippets: T.
      rng: a NumPy generator.
    """
    batch: list[list[np.ndarray]] = [[] for _ in videos]
    for v in chosen:
        length = len(videos[0][v])
        edges = np.arange(num_snippets + 1) * length // num_snippets
        snippets = rng.integers(edges[:-1], np.minimum(edges[1:], length - 1) + 1)
        for own, stream in zip(batch, videos, strict=True):
            own.append(stream[v][snippets])
    return [torch.from_numpy(np.stack(own)) for own in batch], torch.from_numpy(labels[list(chosen)])


def train_step(
    model: TorchCase, optimizer: torch.optim.Optimizer, features: Streams, labels: torch.Tensor
) -> dict[str, torch.Tensor]:
    """One step of training; returns the terms of the loss."""
    model.project()
    optimizer.zero_grad()
    terms = model(features, labels)
    terms["loss"].backward()
    optimizer.step()
    return terms


def _tensor(array: Any) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(np.asarray(array)))
