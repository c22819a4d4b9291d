# %% [markdown]
# # Compare two victims
# Two ways to train a hash, attacked with the same queries and targets: which is easier to fool? The
# answer is a paired difference with an interval. Under a minute on one core.

# %%
import os
from pathlib import Path

import matplotlib as mpl

import advhash as ah

mpl.use("agg")
import matplotlib.pyplot as plt

OUT = Path(os.environ.get("ADVHASH_GALLERY", "."))
DATA = {"name": "digits", "size": 16}

# %%
victims = {name: ah.train(name, DATA, epochs=6) for name in ("dpsh", "csq")}
results = {
    name: ah.attack(victim, method="dhta", eps=4 / 255, steps=30, protocol={"queries": 60})
    for name, victim in victims.items()
}
difference = ah.compare(results["dpsh"], results["csq"]).differences["tmap"]

# %% [markdown]
# Raw t-MAP says how far queries got; clean and ceiling say what there was to reach. A victim that
# retrieves badly cannot be led far either, so MAP stands beside it.

# %%
names = {"map": "MAP clean", "tmap_clean": "t-MAP clean", "tmap": "t-MAP attacked"}
names |= {"tmap_ceiling": "t-MAP ceiling"}
figure, axes = plt.subplots(figsize=(5.4, 3), layout="constrained")
for shift, (victim, colour) in zip((-0.12, 0.12), (("dpsh", "#1f5f99"), ("csq", "#b3372f"))):
    for place, name in enumerate(names):
        metric = results[victim].metrics[name]
        axes.errorbar(
            metric.value,
            place + shift,
            xerr=[[metric.value - metric.low], [metric.high - metric.value]],
            fmt="o" if victim == "dpsh" else "s",
            color=colour,
            label=victim if place == 0 else None,
        )
axes.set_yticks(range(len(names)), names.values())
axes.invert_yaxis()
axes.set(xlim=(0, 1.02), xlabel="mean over 60 queries, 95 % interval")
axes.set_title(
    f"csq − dpsh in t-MAP: {difference.value:+.2f} [{difference.low:+.2f}, {difference.high:+.2f}]",
    fontsize=10,
)
axes.legend(fontsize=8)
figure.savefig(OUT / "two_victims.png", dpi=110)

# %%
assert difference.n == 60
for result in results.values():
    assert result.metrics["tmap"].value > result.metrics["tmap_clean"].value
