# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Both methods on one page
#
# VLM-CPL (arXiv 2403.15836) and UniSAL (Medical Image Analysis 102:103542) in plain numpy, scikit-learn and torch,
# to understand or to port them. Both train two networks, $A$ and $B$, with one loss. They differ in who labels
# $D_l$: filters of what prompts say, or an expert who is asked, round by round, about the tiles that matter.
#
# $$\mathcal L = \underbrace{\mathrm{CE}_A + \mathrm{CE}_B}_{D_l,\ \text{labelled}} + \lambda(t)\,\underbrace{\big(\mathcal L_{B \to A} + \mathcal L_{A \to B}\big)}_{D_u,\ \text{the other tiles}} + \beta\,\underbrace{\mathcal L_{con}}_{\text{UniSAL alone}}$$
#
# The notebooks with higher numbers take the same steps one by one, with pictures, with our own settings beside the
# published ones, and in a form that scales. This one does what is published and at the end holds its results
# against theirs.
#
# - In: what earlier notebooks saved of each tile: `probs.npy` [N, C], the probabilities of the prompts; `votes.npy`
#   [V, N], the classes that random views vote for; image features of the plain tile in the space of the text,
#   `image_embeds.npy` [N, D], and of the views before that projection, `view_features.npy` [V, N, E]. Settings of the run, and the rows of notebooks 10, 13 and 22.
# - Out: nothing.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from torch import nn
from torch.nn import functional as F

from lib.figures.style import closed
from lib.random_draws import TIES, tile_draws
from lib.run_folder import open_run

# %% tags=["parameters"]
dataset = "demo"  # a card in data/cards
vlm = "stand-in-demo_other_lab"  # names the run folder
seed = 0  # of random ties, clusters, networks and batches
fold = 0  # whose training tiles are learnt from
tolerance = 0.02  # how far from notebooks 13 and 22 the accuracy may end

# %%
run = open_run("05_both_methods_on_one_page", globals())
setting = run.settings_of("13_high_confidence_cross_supervision")
of_loop = run.settings_of("22_active_learning_rounds")
train, test = run.split()
tiles, truth = train.tile.values, train.label.values
probs, votes, image_embeds = run.load("probs", "votes", "image_embeds")
views = run.load("view_features")
n_classes, rng = probs.shape[1], np.random.default_rng(seed)
print(f"{len(tiles)} training tiles, {n_classes} classes, V = {len(votes)} views,",
      f"rho = {setting['keep_ratio']}")
torch.manual_seed(seed);

# %% [markdown]
# ## VLM-CPL: no label
#
# **Zero-shot.** With image encoder $f$, text encoder $g$, one sentence $T_c$ per class and the model's scale $s$, a
# prompt label is the class whose sentence is most like the tile:
#
# $$\hat y(x) = \arg\max_c p(c \mid x), \qquad p(c \mid x) = \operatorname{softmax}_c\big(s \cdot \cos(f(x), g(T_c))\big)$$

# %%
prompt_labels = probs[tiles].argmax(1)
accuracy = {"zero-shot": (probs[test.tile.values].argmax(1) == test.label.values).mean()}
print(f"right: {(prompt_labels == truth).mean():.3f} of {len(tiles)} prompt labels")

# %% [markdown]
# **Multi-view consensus.** Each of $V$ random views of a tile votes for a class. Of the tiles, the fraction $\rho$ whose
# votes $h$ have the lowest entropy is kept. Many tiles have the same entropy, so chance breaks the ties, here with
# the random number that each tile has in this run:
#
# $$H = -\sum_c h_c \log h_c, \qquad h_c = \tfrac1V \sum_v \mathbb 1[\text{vote}_v = c]$$

# %% tags=["algorithm"]
h = np.stack([(votes[:, tiles] == c).mean(0) for c in range(n_classes)], axis=1)
H = -(h * np.log(np.maximum(h, 1e-12))).sum(1).round(9)
ranking = np.lexsort((tile_draws(tiles, 1, seed, TIES)[:, 0], H))
agreed = np.sort(ranking[: int(setting["keep_ratio"] * len(H) + 1e-9)])  # 0.3 · 10 is 3
print(f"right: {(prompt_labels == truth)[agreed].mean():.3f} of {len(agreed)} that views agree on")

# %% [markdown]
# **Prompt-feature consensus.** K-means finds as many clusters of the kept tiles as there are classes. Hungarian
# matching names each cluster $k$ so that clusters agree with as many prompt labels as possible, and only labels
# that their cluster confirms stay:
#
# $$\pi^* = \arg\max_\pi \sum_i \mathbb 1[\pi(k_i) = \hat y_i], \qquad D_l = \{i : \pi^*(k_i) = \hat y_i\}$$

# %% tags=["algorithm"]
y_hat, points = prompt_labels[agreed], image_embeds[tiles[agreed]].astype(np.float32)
k = KMeans(n_classes, n_init=10, random_state=seed).fit_predict(points)
together = np.zeros((n_classes, n_classes))
np.add.at(together, (k, y_hat), 1)
class_of_cluster = linear_sum_assignment(together, maximize=True)[1]
kept = agreed[class_of_cluster[k] == y_hat]
pseudo_labels = np.full(len(tiles), -1)  # -1: none
pseudo_labels[kept] = prompt_labels[kept]
print(f"right: {(prompt_labels == truth)[kept].mean():.3f} of {len(kept)} that clusters confirm")

# %% [markdown]
# **High-confidence cross supervision.** Two networks learn from $D_l$ by cross-entropy, and from all other tiles each what
# its partner is sure of. For network $A$:
#
# $$\mathcal L_A = \operatorname*{mean}_{D_l} \mathrm{CE}(p_A, \hat y) + \lambda(t) \operatorname*{mean}_{D_u} \mathbb 1\big[\max_c p_B(c) > \gamma\big]\, \mathrm{CE}\big(p_A, \arg\max_c p_B(c)\big)$$
#
# No gradient reaches the partner: its label is an index, its confidence a mask. Neither γ nor λ is published; the run
# has 0.95 and 0.5 unless it was told otherwise.

# %% tags=["algorithm"]
def cross_supervision(a, b, y, threshold, weight):
    """Logits of both networks for a batch, of which the first len(y) tiles have labels."""
    n, loss = len(y), 0
    for own, partner in ((a, b), (b, a)):
        confidence, label = partner[n:].softmax(1).max(1)
        each = F.cross_entropy(own[n:], label, reduction="none")
        loss += F.cross_entropy(own[:n], y) + weight * ((confidence > threshold) * each).mean()
    return loss

# %% [markdown]
# A network is one hidden layer on the principal components of the standardised features of the frozen image encoder; the
# papers train a whole ResNet-50. Its last layer gives $C$ logits and, for UniSAL, the 128 numbers of a projection.

# %% tags=["algorithm"]
some = views[:, rng.permutation(tiles)[:1000]].astype(np.float32)
mean, std = some.mean((0, 1)), some.std((0, 1))
std[std < 1e-6] = 1
n_components = min(256, some.shape[2], len(views) * some.shape[1])
pca = PCA(n_components, svd_solver="covariance_eigh")
pca.fit(((some - mean) / std).reshape(-1, len(mean)))
views = np.stack([(view - mean) / std @ pca.components_.T for view in views]).astype(np.float32)

def new_network():
    return nn.Sequential(nn.Linear(n_components, 64), nn.ReLU(), nn.Linear(64, n_classes + 128))

def outputs(network, features):
    return network(torch.from_numpy(features)).split([n_classes, 128], dim=1)

# %% [markdown]
# Half of a batch is labelled. That this half holds every class equally often is a rule of ours.

# %% tags=["algorithm"]
def draw_rows(labels):
    known, unknown = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    rarity = 1 / np.bincount(labels[known])[labels[known]]
    return np.append(rng.choice(known, 64, p=rarity / rarity.sum()), rng.choice(unknown, 64))

# %% [markdown]
# The loop of both methods. Each network sees a random view of its own. The rate falls to a tenth after three quarters of
# the steps; $\lambda(t)$ is zero in the first 7.5 % of them. The last step counts: no label chooses another.

# %% tags=["algorithm"]
def train_pair(labels, steps, loss):
    pair, rate = nn.ModuleList([new_network() for _ in "AB"]), setting["learning_rate"]
    sgd = torch.optim.SGD(pair.parameters(), rate, momentum=0.9, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.MultiStepLR(sgd, [int(0.75 * steps)])
    for step in range(steps):
        rows = draw_rows(labels)
        drawn = [views[rng.integers(len(views), size=len(rows)), tiles[rows]] for _ in pair]
        a, b = (outputs(network, view) for network, view in zip(pair, drawn, strict=True))
        loss_of_both = loss(a, b, torch.from_numpy(labels[rows[:64]]), step >= 0.075 * steps)
        sgd.zero_grad()
        loss_of_both.backward()
        sgd.step()
        schedule.step()
    return pair

# %% [markdown]
# Both networks predict the mean of the views of a tile. The mean of their softmaxes is the prediction, and the mean of their
# projections is what UniSAL clusters.

# %% tags=["algorithm"]
@torch.no_grad()
def predict(pair, features):
    (logits_a, z_a), (logits_b, z_b) = (outputs(network, features) for network in pair)
    return torch.stack([logits_a, logits_b]).softmax(2).numpy(), ((z_a + z_b) / 2).numpy()

def accuracy_of(pair):
    p, _ = predict(pair, views[:, test.tile.values].mean(0))
    return (p.mean(0).argmax(1) == test.label.values).mean()

# %%
gamma, weight = setting["threshold"], setting["cross_weight"]
pair = train_pair(
    pseudo_labels, setting["n_steps"],
    lambda a, b, y, warm: cross_supervision(a[0], b[0], y, gamma, weight * warm),
)
accuracy["VLM-CPL"] = accuracy_of(pair)
print(f"accuracy on the test set: {accuracy['VLM-CPL']:.3f}")

# %% [markdown]
# ## UniSAL: few labels
#
# **Dual-view training.** The same loss with another threshold, and a third term. It pulls the two projections of a tile
# together and pushes tiles of different classes apart. The class $y_i$ of a tile is its label, or what both
# networks say if both are surer than $\tau$ and agree; other tiles take no part.
#
# $$\mathcal L_{con} = \operatorname*{mean}_i\, -\log \frac{e^{\cos(z^A_i, z^B_i)/T}}{e^{\cos(z^A_i, z^B_i)/T} + \sum_{j:\, y_j \ne y_i} \big[ e^{\cos(z^A_i, z^A_j)/T} + e^{\cos(z^B_i, z^B_j)/T} \big]}, \qquad T = 0.15$$

# %% tags=["algorithm"]
def unisal_loss(a, b, y, warm, T=0.15):
    tau, weight = of_loop["threshold"], of_loop["cross_weight"] * warm
    (p_a, y_a), (p_b, y_b) = (logits[len(y):].softmax(1).max(1) for logits, _ in (a, b))
    sure = (p_a > tau) & (p_b > tau) & (y_a == y_b)
    known = torch.cat([y, torch.where(sure, y_a, -1)])
    apart = (known[:, None] != known) & (known[:, None] >= 0) & (known >= 0)
    z_a, z_b = (F.normalize(z, dim=1) for _, z in (a, b))
    same = ((z_a * z_b).sum(1) / T).exp()
    others = (((z_a @ z_a.T / T).exp() + (z_b @ z_b.T / T).exp()) * apart).sum(1)
    contrastive = -(same / (same + others)).log()  # 0 for a tile that is compared with none
    contrastive = contrastive.sum() / apart.any(1).sum().clamp(min=1)
    return cross_supervision(a[0], b[0], y, tau, weight) + of_loop["contrast"] * contrastive

# %% [markdown]
# **Which tiles next.** Of the unlabelled tiles $U$ on which the two networks disagree, $D$, those that are nearest to the
# centres of $q$ clusters of the mean projection $z$. If no more than $q$ disagree, all of them, and the rest by the
# entropy of the mean prediction.
#
# $$D = \{i \in U : \arg\max p_A(x_i) \ne \arg\max p_B(x_i)\}, \qquad Q = \{\arg\min_{i \in D_k} \lVert z_i - \mu_k \rVert\}_{k=1}^q$$

# %% tags=["algorithm"]
def choose(p, z, unlabelled, q):
    D = np.flatnonzero(unlabelled & (p[0].argmax(1) != p[1].argmax(1)))
    if len(D) > q:
        kmeans = KMeans(q, n_init=1, random_state=seed).fit(z[D])
        distance = kmeans.transform(z[D])
        distance[kmeans.labels_[:, None] != np.arange(q)] = np.inf  # to its own centre alone
        return D[distance.argmin(0)]
    agree = np.setdiff1d(np.flatnonzero(unlabelled), D)
    negative_entropy = (p.mean(0) * np.log(p.mean(0) + 1e-12)).sum(1)
    return np.append(D, agree[negative_entropy[agree].argsort()][: q - len(D)])

# %% [markdown]
# **Rounds.** The first $q$ tiles are drawn by chance. In each round an expert labels the query, two new networks learn
# from all labels so far, and they choose the next query. Here a table answers for the expert. The accuracy of one
# round goes up and down by a few test tiles, so the mean of the second half of the rounds is kept.
#
# $$A_r, B_r = \text{train}(L_r, U_r), \qquad Q_{r+1} = \text{choose}(A_r, B_r, U_r), \qquad L_{r+1} = L_r \cup Q_{r+1}$$

# %% tags=["algorithm"]
labels, q = np.full(len(tiles), -1), max(1, round(of_loop["query_share"] * len(tiles)))
query, curve = np.random.default_rng([seed, fold]).permutation(len(tiles))[:q], {}
for _ in range(of_loop["n_rounds"]):
    labels[query] = truth[query]
    pair = train_pair(labels, of_loop["n_steps"], unisal_loss)
    curve[int((labels >= 0).sum())] = accuracy_of(pair)
    query = choose(*predict(pair, views[:, tiles].mean(0)), labels < 0, q)
second_half = list(curve)[-(len(curve) // 2):]
accuracy["UniSAL"] = np.mean([curve[n] for n in second_half])
assert list(curve) == [q * r for r in range(1, of_loop["n_rounds"] + 1)]  # no tile twice

# %% [markdown]
# ## Beside the notebooks that take the same steps one by one
#
# Their results of the same fold: VLM-CPL with the *published filters* of `13_high_confidence_cross_supervision`, and
# UniSAL as published (*dual-view*) of `22_active_learning_rounds`. The pseudo labels are the same; networks start and
# batches are drawn otherwise, and UniSAL soon asks about other tiles, so some test tiles are predicted otherwise.

# %%
facts = run.results("10_", "13_", "22_").facts
facts = facts.query("split == 'test' and network != 'fine-tune' and unit == 'tile'")
unisal = facts.query("method == 'unisal' and training == 'dual-view'").sort_values("budget")
cpl = facts.query("method == 'vlm-cpl' and variant == 'published filters'")
parts = {"zero-shot": facts.query("method == 'zero-shot'"), "VLM-CPL": cpl, "UniSAL": unisal}
reference = {name: part.accuracy.tail(len(second_half)).mean() for name, part in parts.items()}

# %%
table = pd.DataFrame({"on this page": accuracy, "notebooks 10, 13 and 22": reference})
table.insert(0, "labels", ["none", "none", f"{second_half[0]} to {second_half[-1]}"])
table.round(3)

# %%
labels_of_12 = run.load("pseudo_labels").query("setting == 'published filters' and kept").tile
assert np.array_equal(tiles[kept], labels_of_12)
assert np.isclose(accuracy["zero-shot"], reference["zero-shot"])
for method in ("VLM-CPL", "UniSAL"):
    assert abs(accuracy[method] - reference[method]) <= tolerance, f"{method}: {table}"

# %%
figure, ax = plt.subplots(figsize=(7, 3.6))
ax.plot(curve.keys(), curve.values(), "o-", label="UniSAL, on this page")
ax.plot(unisal.budget, unisal.accuracy, "o--", alpha=0.6, label="UniSAL, notebook 22")
ax.axhline(accuracy["VLM-CPL"], color="#009E73", label="VLM-CPL, on this page, no label")
ax.axhline(accuracy["zero-shot"], color="#777777", ls=":", label="zero-shot, no label")
ax.set(xlabel="labels", ylabel="accuracy on the test set")
closed(figure, legend=True)

# %% [markdown]
# On the synthetic tiles VLM-CPL gets without a label about as far as UniSAL with a few. The two lines of UniSAL begin with
# the same tiles. With so few labels much depends on how the networks start, as they teach each other mistakes too; with more
# labels the lines come together.

# %% [markdown]
# **Recap.** Two filters and one loss are VLM-CPL; the same loss with a contrastive term and a rule for which tiles
# to ask about is UniSAL. Next: `10_zero_shot_inference` begins to take them step by step, and
# `notebooks/README.md` says what of each paper stands where.
