# %% [markdown]
# # A retrieval before and after
# One query, what it retrieves, and what the attacked query retrieves instead. Under a minute on one
# core, seconds from the cache.

# %%
import os
from pathlib import Path

import matplotlib as mpl
import numpy as np

import advhash as ah
from advhash.codes.hamming import nearest

mpl.use("agg")
import matplotlib.pyplot as plt

OUT = Path(os.environ.get("ADVHASH_GALLERY", "."))

# %%
victim = ah.train("dpsh", {"name": "digits", "size": 16}, epochs=6)
result = ah.attack(victim, method="dhta", eps=16 / 255, steps=30, protocol={"queries": 20})
gain = result.columns["tmap"] - result.columns["tmap_clean"]
query = int(np.argsort(-gain, kind="stable")[len(gain) // 2])  # the median, not the best

# %% [markdown]
# The median query of 20 by what the attack gained: neither picked by hand nor the best.

# %%
data = victim.data
database = victim.victim.database_codes(data, "image")
one = slice(query, query + 1)
rows = {
    "clean": (result.clean[query], nearest(result.clean_codes[one], database, 6)[0]),
    "attacked": (result.adversarial[query], nearest(result.codes[one], database, 6)[0]),
}
wanted = data.classes[int(result.targets[query].argmax())]
figure, grid = plt.subplots(2, 7, figsize=(7, 2.6), layout="constrained")
for line, (name, (image, found)) in zip(grid, rows.items()):
    pictures = [image, *(data.database.inputs["image"][int(row)] / 255 for row in found)]
    titles = [name, *(data.database.names[int(row)].partition(" ")[0] for row in found)]
    for axes, picture, title in zip(line, pictures, titles):
        axes.imshow(picture.permute(1, 2, 0).numpy())
        axes.set_title(title, fontsize=9)
        axes.set_axis_off()
figure.suptitle(f"L∞ 16/255, the attacker wants a {wanted}", fontsize=10)
figure.savefig(OUT / "before_and_after.png", dpi=110)

# %%
own = set(np.flatnonzero(data.query.labels[int(result.index[query])].numpy()))
assert own.isdisjoint(np.flatnonzero(result.targets[query]))
assert np.mean(gain > 0) > 0.5, "the attack moved fewer than half of the queries"
