"""A hand-written PyTorch trainer to compare with: npz in memory, DataLoader, batch 32, fp32, `.item()` per step.

    python bench/plain_trainer.py windows.npz

Only the network and the loss terms come from nextvec; the gradients come from autograd.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from nextvec.losses.terms import info_nce, moment_matching, mse, variance_floor
from nextvec.models.registry import create_model
from nextvec.recipe import make_recipe


class Items(Dataset):
    """Windows as single items."""

    def __init__(self, contexts, targets):
        self.contexts, self.targets = contexts, targets

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return torch.from_numpy(self.contexts[index]), torch.from_numpy(self.targets[index])


def loss_of(prediction, target, tau=0.07):
    """Return the runbook's objective; MSE is scaled to about 1, so that both halves have equal weight."""
    unit = torch.nn.functional.normalize(prediction.float(), dim=1)
    scale = target.shape[1] / 2
    loss = 0.5 * scale * mse(unit, target) + 0.25 * info_nce(unit, target, tau)
    return loss + 0.001 * moment_matching(unit, target) + 0.001 * variance_floor(unit)


class PlainTrainer:
    """Model, optimizer and loader."""

    def __init__(self, contexts, targets, kind="amn", batch=32, lr=5e-4, device="cpu", variant="residual"):
        torch.manual_seed(0)
        query = False if variant == "residual" else None
        recipe = make_recipe({"name": "plain", "model": {"kind": kind, "variant": variant, "query": query}})
        self.model = create_model(recipe.model, targets.shape[1]).to(device).train()
        self.device = device
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=lr)
        self.loader = DataLoader(Items(contexts, targets), batch_size=batch, shuffle=True, drop_last=True)
        self.batch, self.losses = batch, []
        self.batches = iter(self.loader)

    def train(self, steps):
        """Train `steps` steps and return the number of windows."""
        for _ in range(steps):
            try:
                context, target = next(self.batches)
            except StopIteration:
                self.batches = iter(self.loader)
                context, target = next(self.batches)
            context, target = context.to(self.device), target.to(self.device)
            self.optimizer.zero_grad()
            loss = loss_of(self.model(context), target)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
            self.losses.append(loss.item())
        return steps * self.batch

    @torch.no_grad()
    def validate(self, contexts, targets):
        """Return the mean cosine on other windows, batch by batch."""
        self.model.eval()
        cosines = []
        for context, target in DataLoader(Items(contexts, targets), batch_size=self.batch):
            prediction = self.model(context.to(self.device)).float()
            cosines.append(torch.nn.functional.cosine_similarity(prediction, target.to(self.device)).mean().item())
        self.model.train()
        return sum(cosines) / len(cosines)


if __name__ == "__main__":
    with np.load(sys.argv[1]) as file:
        trainer = PlainTrainer(file["context_sequences"], file["target_vectors"])
    trainer.train(len(trainer.loader))
    print(sum(trainer.losses) / len(trainer.losses))
