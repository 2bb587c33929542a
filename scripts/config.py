"""Settings of analysis.py: where runs are, which ranks are shown, how figures look."""

# Experiments: the folder under cache/ with their runs (or notebook pickles), and the configuration that makes them.
EXPERIMENTS = {
    "small": {"folder": "zipf_small", "config": "configs/zipf_small.yaml"},
    "medium": {"folder": "zipf_medium", "config": "configs/zipf_medium.yaml"},
    "large_rope": {"folder": "zipf_large_rope", "config": "configs/zipf_large_rope.yaml"},
    "large_lr": {"folder": "zipf_large_lr", "config": "configs/zipf_large_lr.yaml"},
}

# Ranks: 0 is the most frequent sequence. A bin is (first rank, one past the last rank).
RANK_SELECTIONS = {
    "low": [(0, 10)],
    "mid": [(30, 40)],
    "high": [(60, 70)],
    "selected": [(0, 10), (30, 40), (60, 70)],
}
RANK_RANGES = [0, 5, 10, 100, 200, 500, 1000]  # edges of the ranges that figures by rank range show ...
FURTHER_RANGES = 1000  # ... and beyond the last edge ranges of this many ranks

# What --comparative compares beside models: the setting that colours its figure.
COMPARISONS = {
    "heads": "model.heads",
    "layers": "model.layers",
    "embedding_type": "model.position",
    "learning_rate": "train.lr",
}

DEFAULTS = {"experiment": "small", "rank_selection": "selected", "format": ["png"], "style": "screen"}

# Folders under cache/.
PROCESSED_FOLDER = "processed_data"
FIGURES_FOLDER = "zipf_figs"
COMPARATIVE_FOLDER = "comparative_visualizations"  # inside FIGURES_FOLDER

# Axes. Where data lie outside, an axis grows; it never cuts them off.
PRESENTATION_LIMITS = (1e1, 1e5)
LOSS_LIMITS = (0.009, 1.0)  # nats
ACCURACY_LIMITS = (0.5, 1.0)

# Looks: inches, dots per inch, points. `paper` has no title, since papers have captions.
STYLES = {
    "screen": {"size": (12.0, 8.0), "dpi": 300, "font": 11.0, "line": 1.6, "title": True},
    "paper": {"size": (6.75, 4.2), "dpi": 300, "font": 8.0, "line": 1.1, "title": False},
}

# At most so many evaluations of a run are drawn, evenly spaced on a logarithmic axis.
MAX_ROWS = 400  # of a line
MAX_POINTS = 60  # of each rank in a scatter plot
