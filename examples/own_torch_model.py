# %% [markdown]
# # Attack a torch model of your own
# A small network is trained in plain torch, without advhash, to give 32-bit codes of digits. Then
# it is attacked under growing budgets. Under a minute on one core.

# %%
import os
from pathlib import Path

import matplotlib as mpl
import torch
from torch import nn

import advhash as ah

mpl.use("agg")
import matplotlib.pyplot as plt

OUT = Path(os.environ.get("ADVHASH_GALLERY", "."))
torch.manual_seed(0)

# %% [markdown]
# ## The model
# Any module from (B,3,H,W) images in [0,1] to (B,K) real numbers will do; a bit is 1 where the
# number is above 0. Here: two convolutions, codes, and a classifier on top that only training uses.

# %%
data = ah.load_dataset("digits", {"size": 16})
encoder = nn.Sequential(
    nn.Conv2d(3, 16, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.Conv2d(16, 32, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.Flatten(),
    nn.Linear(32 * 4 * 4, 32),
)
classifier = nn.Linear(32, 10)
optimiser = torch.optim.Adam([*encoder.parameters(), *classifier.parameters()], lr=3e-3)
for _ in range(10):
    for batch in data.train.batches(64):
        codes = torch.tanh(encoder(batch.inputs["image"]))
        loss = nn.functional.cross_entropy(classifier(codes), batch.labels.argmax(dim=1))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

# %% [markdown]
# ## Its figures, and the attack
# `bring` hashes the database once and looks for constant bits, randomness and vanished gradients.

# %%
own = ah.bring(encoder, data, name="my_network")
retrieval = ah.evaluate(own)["map_image_image"]
steps = (4, 8, 16, 32, 64)
results = [
    ah.attack(own, method="dhta", eps=step / 255, steps=100, protocol={"queries": 40})
    for step in steps
]
results[-1]

# %% [markdown]
# ## The curve over the budget
# t-MAP: how well the attacked queries retrieve what the attacker wants. It starts where clean
# queries are and ends at what the best code known for the target would reach.

# %%
reached = [result.metrics["tmap"] for result in results]
values = [metric.value for metric in reached]
figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
axes.plot(steps, values, marker="o", color="#b3372f", label="attacked")
axes.fill_between(
    steps, [m.low for m in reached], [m.high for m in reached], color="#b3372f", alpha=0.2
)
axes.axhline(results[0].metrics["tmap_clean"].value, color="0.4", ls=":", label="clean queries")
axes.axhline(results[0].metrics["tmap_ceiling"].value, color="0.4", ls="--", label="ceiling")
axes.set(xlabel="L∞ budget, steps of 255", ylabel="t-MAP", ylim=(0, 1))
axes.set_title(f"DHTA on a network of one's own (MAP {retrieval.value:.2f})", fontsize=10)
axes.legend(fontsize=8)
figure.savefig(OUT / "own_torch_model.png", dpi=110)

# %%
assert retrieval.value > 0.6, "the network did not learn to retrieve"
assert values[-1] > values[0], "a larger budget must help the attacker"
