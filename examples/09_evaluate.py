"""Judge an encoder beside its controls: few labels, clouds, paired intervals, one page."""

from deepsentinel import DeepSentinelDataset, evaluate
from deepsentinel.datasets.synthetic import write_synthetic_corpus
from deepsentinel.training.evaluation.protocol import Protocol

corpus = write_synthetic_corpus("corpus", patches=48, patch_size=32, seed=0)
dataset = DeepSentinelDataset(corpus, None, labels=("landcover_class",))

protocol = Protocol(
    parts=("scores", "matrix"),
    methods=("linear",),
    shots=(1, 5),
    shares=(1.0,),
    folds=3,
    seeds=2,
    random_twins=1,
    replicates=200,
    cloud_shares=(0.0, 0.5, 1.0),
)
found = evaluate(
    "deepsentinel-nano",
    dataset,
    protocol,
    blocks=[name.rsplit("-", 1)[0] for name in dataset.index["id"]],  # a scene stays together
    out_dir="report",
)
print(found)
print("Is fusion ever below a single sensor?", found.report.metrics["fusion_ever_below"])
