"""Specs that are accepted and refused, each read twice: by pydantic (unit) and by a real API server (integration).

`message` is part of the message of one rule, which both give. `field` is the place that both name when a type, a
bound or a name is wrong, in whatever words. A case with neither is accepted.
"""

from dataclasses import dataclass
from typing import Any

from builders import MODEL, REVIEWS, script_spec, spec

Json = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One spec and what becomes of it."""

    title: str
    spec: Json
    message: str | None = None
    field: str | None = None

    @property
    def accepted(self) -> bool:
        return self.message is None and self.field is None

    def __str__(self) -> str:
        return self.title


@dataclass(frozen=True)
class Update:
    """A change of a stored spec that is refused with a rule's message."""

    title: str
    before: Json
    after: Json
    message: str

    def __str__(self) -> str:
        return self.title


def _model(**fields: Any) -> Json:
    return spec(model={"uri": MODEL} | fields)


def _data(**fields: Any) -> Json:
    return spec(dataset={"train": {"uri": REVIEWS}} | fields)


def _search(*parameters: Json, **fields: Any) -> Json:
    return spec(search={"parameters": list(parameters)} | fields)


def _ensemble(**fields: Any) -> Json:
    return spec(ensemble=fields)


_BY_ACCURACY: Json = {"training": {"evaluation": {"bestMetric": "accuracy"}}}


_NICS = {"name": "nics", "resourceClaimTemplateName": "two-nics"}


def _resources(**fields: Any) -> Json:
    return spec(resources=fields)


def _tolerated(**fields: Any) -> Json:
    return spec(scheduling={"tolerations": [fields]})


def _secret(name: str, key: str | None = "key", secret: str = "wandb") -> Json:
    reference = {"name": secret} | ({"key": key} if key else {})
    return {"name": name, "valueFrom": {"secretKeyRef": reference}}


def _causal(**fields: Any) -> Json:
    return spec(dataset={"train": {"uri": REVIEWS}} | fields, objective={"causalLM": {}})


def _preference(data: Json | None = None, **fields: Any) -> Json:
    return spec(dataset={"train": {"uri": REVIEWS}} | (data or {}), objective={"preference": fields})


def _optimizer(**fields: Any) -> Json:
    return spec(training={"optimizer": fields})


FULL_TRAINING: Json = {
    "epochs": 4,
    "batchSize": 64,
    "microBatchSize": 16,
    "optimizer": {
        "name": "AdamW",
        "learningRate": 3e-5,
        "weightDecay": 0.1,
        "betas": [0.9, 0.98],
        "epsilon": 1e-6,
        "momentum": 0.0,
    },
    "schedule": {"name": "Cosine", "warmup": {"steps": 100}, "minRatio": 0.1},
    "gradientClipping": {"maxValue": 0.5},
    "ema": {"decay": 0.99, "every": 2},
    "precision": "BFloat16",
    "seed": 7,
    "evaluation": {
        "every": {"steps": 200},
        "metrics": ["accuracy", "eval_mcc"],
        "bestMetric": "f1_macro",
        "baseline": True,
        "forgetting": [{"uri": "pvc://demo/data/general.jsonl", "maxDrop": 0.02}],
    },
    "earlyStopping": {"metric": "accuracy", "patience": 2, "minDelta": 0.001, "restoreBest": False},
    "checkpoint": {"every": {"minutes": 5}, "keep": 3, "resume": "Never", "gracePeriodSeconds": 60},
    "onNonFinite": {"action": "Rollback", "learningRateFactor": 0.3, "limit": 2},
    "sharding": "Full",
    "activationCheckpointing": True,
    "deterministic": True,
    "debug": {
        "overfitOneBatch": True,
        "statisticsEvery": 10,
        "profile": {"fromStep": 5, "steps": 2},
        "tensorBoard": True,
    },
}
FULL_TOLERATION = {
    "key": "nvidia.com/gpu",
    "operator": "Equal",
    "value": "present",
    "effect": "NoExecute",
    "tolerationSeconds": 300,
}
FULL: Json = {
    "model": {
        "uri": MODEL,
        "tokenizer": {"uri": "pvc://demo/tokenizer", "addTokens": ["mmHg"]},
        "initialize": "Random",
        "freeze": {"embeddings": True, "layers": 4, "unfreezeEvery": {"epochs": 1}},
        "dropout": 0.1,
        "layerLearningRateDecay": 0.9,
        "head": {"hiddenSizes": [256], "batchNorm": True, "dropout": 0.2, "pooling": "Max"},
        "weights": "Float32",
    },
    "dataset": {
        "train": {"uri": REVIEWS, "format": "jsonl"},
        "validation": {"fraction": 0.2, "groupBy": "review_id"},
        "test": {"uri": "configMap://tiny/test.csv", "format": "csv"},
        "columns": {"text": "premise", "textPair": "hypothesis", "label": "verdict"},
        "preprocessing": {
            "unicode": "NFKC",
            "stripMarkup": True,
            "collapseWhitespace": True,
            "lowercase": True,
            "minCharacters": 3,
            "deduplicate": "Exact",
            "maxLength": 512,
            "truncation": "Left",
        },
        "maxInvalidRows": "2.5%",
    },
    "objective": {
        "classification": {
            "labels": ["pos", "neg"],
            "classWeights": "Balanced",
            "labelSmoothing": 0.1,
            "multiLabel": False,
        }
    },
    "training": FULL_TRAINING,
    "resources": {
        "nodes": 1,
        "gpusPerNode": 1,
        "gpuResource": "nvidia.com/gpu",
        "requests": {"cpu": 4, "memory": "16Gi"},
        "limits": {"memory": "16Gi"},
        "sharedMemory": "1Gi",
        "claims": [{"name": "nics", "resourceClaimTemplateName": "two-nics"}],
    },
    "scheduling": {
        "nodeSelector": {"gpu": "a100"},
        "tolerations": [FULL_TOLERATION],
        "priorityClassName": "research",
        "queue": "team-a",
        "schedulerName": "volcano",
        "imagePullSecrets": ["registry"],
    },
    "retry": {"limit": 1, "windowSeconds": 3600},
    "output": {"uri": "pvc://models/movie-sentiment", "dtype": "BFloat16"},
    "suspend": True,
    "activeDeadlineSeconds": 7200,
    "startupDeadlineSeconds": 600,
    "ttlSecondsAfterFinished": 0,
    "image": "example.test/team/trainer:1",
    "env": [
        {"name": "NCCL_DEBUG", "value": "WARN"},
        {"name": "TOKENIZERS_PARALLELISM", "value": ""},
        _secret("WANDB_API_KEY", key="api-key"),
    ],
}
RATE = "training.optimizer.learningRate"
RATES: Json = {"path": RATE, "logUniform": {"min": 1e-5, "max": 1e-2}}
FULL_SEARCH: Json = {
    "algorithm": "Random",
    "parameters": [
        RATES,
        {"path": "model.adapter.lora.targetModules", "choice": [["query"], ["query", "value"]]},
        {"path": "training.epochs", "integer": {"min": 1, "max": 5, "step": 2}},
        {"path": "training.optimizer.name", "choice": ["AdamW", "SGD"]},
        {
            "path": "training.optimizer.momentum",
            "uniform": {"min": 0.0, "max": 0.9},
            "when": {"path": "training.optimizer.name", "values": ["SGD"]},
        },
        {"path": "training.schedule", "choice": [{"name": "Cosine"}, {"name": "Constant"}]},
        {"path": "dataset.preprocessing.lowercase", "choice": [True, False]},
    ],
    "maxTrials": 30,
    "parallelism": 4,
    "maxFailedTrials": 2,
    "patience": 10,
    "maxDeviceSeconds": 36000,
    "pruner": {"asha": {"minEpochs": 0.5, "reductionFactor": 4}},
    "confirm": {"top": 2, "seeds": 5},
    "keepModels": "Best",
    "seed": 3,
}
FULL_ENSEMBLE: Json = {
    "members": 5,
    "combine": "GreedySoup",
    "parallelism": 2,
    "minMembers": 4,
    "publish": "Always",
}

FULL_SCRIPT: Json = script_spec(
    **{name: FULL[name] for name in FULL if name not in ("objective", "training")},
)

ACCEPTED = [
    Case("the smallest job", spec()),
    Case("a job with every field", FULL),
    Case("the smallest script", script_spec()),
    Case("a script with every field", FULL_SCRIPT),
    Case("a search with every field", spec(search=FULL_SEARCH)),
    Case("the smallest search", spec(search={"parameters": [RATES]})),
    Case("a grid", _search({"path": RATE, "choice": [1e-5, 0.001, 1]}, algorithm="Grid")),
    Case("a pruner with its defaults", _search(RATES, pruner={"asha": {}})),
    Case(
        "samples of a language model",
        spec(objective={"causalLM": {}}, training={"evaluation": {"samples": 3}}),
    ),
    Case(
        "two tensor groups of two GPUs",
        spec(training={"tensorParallel": 2, "sharding": "Full"}, resources={"gpusPerNode": 2, "nodes": 2}),
    ),
    Case("a smallest accuracy", spec(gate={"metric": "accuracy", "min": 0.8})),
    Case("a largest loss", spec(gate={"metric": "eval_loss", "max": 0.5})),
    Case("all right", spec(gate={"metric": "accuracy", "min": 1})),
    Case("a gain of a metric without an upper end", spec(gate={"metric": "loss", "betterThanBaselineBy": 2})),
    Case(
        "a drop of a metric without an end",
        spec(training={"evaluation": {"forgetting": [{"uri": REVIEWS, "maxDrop": 5}]}}),
    ),
    Case("an improvement of the loss by 1", spec(training={"earlyStopping": {"minDelta": 1}})),
    Case("better than the baseline", spec(gate={"metric": "f1", "betterThanBaselineBy": 0.02})),
    Case(
        "a gate on what a search finds",
        spec(search={"parameters": [RATES]}, gate={"metric": "f1", "betterThanBaselineBy": 0.02}),
    ),
    Case("a gate on an ensemble", spec(ensemble={"members": 2}, gate={"metric": "accuracy", "min": 0.8})),
    Case("an ensemble with every field", _ensemble(**FULL_ENSEMBLE)),
    Case("the smallest ensemble", _ensemble(members=2)),
    Case(
        "a student with every field",
        _ensemble(members=2, combine="Distil", distil={"temperature": 4, "alpha": 0.9}),
    ),
    Case("a student with the defaults", _ensemble(members=2, combine="Distil")),
    Case(
        "a student of numbers",
        _ensemble(members=2, combine="Distil", distil={"alpha": 1}) | {"objective": {"regression": {}}},
    ),
    Case("an ensemble of overrides", _ensemble(overrides=[{"training.seed": 1}, {"model.dropout": 0.2}])),
    Case(
        "the best of a search as an ensemble",
        spec(search={"parameters": [RATES]}, ensemble={"fromSearch": 3}),
    ),
    Case("votes by another metric", _ensemble(members=3, combine="Vote") | _BY_ACCURACY),
    Case(
        "as many metrics as an ensemble reports",
        _ensemble(members=2)
        | {
            "training": {
                "precision": "BFloat16",
                "evaluation": {"metrics": ["accuracy", "f1", "precision", "recall"], "bestMetric": "mcc"},
            }
        },
    ),
    *(
        Case(
            f"the longest output folder of {part}, {length} characters",
            spec(output={"uri": uri}) | {part: fields},
        )
        for part, fields in {"search": {"parameters": [RATES]}, "ensemble": {"members": 2}}.items()
        for uri in (f"pvc://c/{'f' * 119}", f"pvc://cc/{'f/' * 245}f")
        for length in [len(uri)]
    ),
    Case("a share with a seed", _data(validation={"seed": 7})),
    Case("regression is written as an empty object", spec(objective={"regression": {}})),
    Case(
        "null is as good as absent",
        spec(training={"epochs": None, "maxSteps": 10}, env=None) | {"retry": None},
    ),
    Case(
        "null beside the chosen member", spec(training={"schedule": {"warmup": {"ratio": None, "steps": 5}}})
    ),
    Case("max steps instead of epochs", spec(training={"maxSteps": 10})),
    Case("an average with its defaults", spec(training={"maxSteps": 1, "ema": {}})),
    Case("an average of the last step", spec(training={"maxSteps": 10, "ema": {"every": 10}})),
    Case("an integer where a number is asked for", spec(training={"gradientClipping": {"maxNorm": 1}})),
    Case("clipping turned off", spec(training={"gradientClipping": {"maxNorm": 0}})),
    Case("no warmup", spec(training={"schedule": {"warmup": {"steps": 0}}})),
    Case("a micro-batch as large as the batch", spec(training={"batchSize": 8, "microBatchSize": 8})),
    Case("a validation file", _data(validation={"uri": "pvc://demo/validation.csv", "format": "csv"})),
    Case("a stratified share", _data(validation={"fraction": 0.1, "stratify": True})),
    Case("groups that are not stratified", _data(validation={"stratify": False, "groupBy": "id"})),
    Case(
        "regression that is not stratified",
        _data(validation={"stratify": False}) | {"objective": {"regression": {}}},
    ),
    Case("data in a ConfigMap", _data(test={"uri": "configMap://tiny/rows.jsonl"})),
    Case("invalid rows as a number", _data(maxInvalidRows=10)),
    Case("invalid rows as a number in quotes", _data(maxInvalidRows="10")),
    Case("invalid rows as a share", _data(maxInvalidRows="1%")),
    Case("all rows invalid", _data(maxInvalidRows="100%")),
    Case("cpu as a number", spec(resources={"requests": {"cpu": 4}, "limits": {"cpu": 4}})),
    Case("cpu in quotes", spec(resources={"requests": {"cpu": "0.5"}, "limits": {"cpu": "4"}})),
    Case("memory in bytes", spec(resources={"requests": {"memory": 17_179_869_184}})),
    Case("the least memory", spec(resources={"requests": {"memory": "0"}, "limits": {"memory": "1Mi"}})),
    Case("a request in another unit than its limit", _resources(requests={"cpu": "500m"}, limits={"cpu": 1})),
    Case(
        "a request as large as its limit",
        _resources(requests={"memory": "1Gi"}, limits={"memory": 1073741824}),
    ),
    Case("a network card", _resources(limits={"rdma/hca_a": 1})),
    *(
        Case(f"{name} beside the CPU", _resources(gpusPerNode=0, limits={name: 1}))
        for name in (
            "rdma/hca",
            "vpc.amazonaws.com/efa",
            "intel.com/intel_sriov_netdevice",
            "nvidia.com/roce_gdr",
            "nvidia.com/hostdev",
            "smarter-devices/fuse",
            "intel.com/exclusive-cores",
        )
    ),
    *(
        Case(f"{name} beside a GPU", _resources(gpusPerNode=1, limits={name: 40}))
        for name in ("nvidia.com/gpumem", "volcano.sh/vgpu-memory", "huawei.com/Ascend910B-memory")
    ),
    Case("no TPU", _resources(gpusPerNode=0, limits={"google.com/tpu": 0, "nvidia.com/gpumem": "0"})),
    Case(
        "a share of a GPU beside claims",
        _resources(gpusPerNode=0, limits={"nvidia.com/gpumem": 1}, claims=[_NICS]),
    ),
    Case("devices of another vendor", _resources(gpusPerNode=8, gpuResource="habana.ai/gaudi")),
    Case("hugepages beside memory", _resources(limits={"hugepages-2Mi": "64Mi", "memory": "1Gi"})),
    Case("scratch space", _resources(limits={"ephemeral-storage": "10Gi"})),
    Case("any taint", _tolerated(operator="Exists")),
    Case("any value of a taint", _tolerated(key="gpu", operator="Exists", value="")),
    Case("a taint without a value", _tolerated(key="node.example.com/broken")),
    Case("a zone", spec(scheduling={"nodeSelector": {"topology.kubernetes.io/zone": "a", "x": ""}})),
    Case("training on the cpu", spec(resources={"gpusPerNode": 0})),
    Case("training without preflight", spec(preflight="Skip")),
    Case(
        "claimed devices", spec(resources={"claims": [{"name": "gpus", "resourceClaimTemplateName": "two"}]})
    ),
    Case("a queue", spec(scheduling={"queue": "team-a.gpus", "schedulerName": "volcano"})),
    Case("training on several gpus", spec(resources={"gpusPerNode": 4})),
    Case("a script on several gpus", script_spec(resources={"gpusPerNode": 8})),
    Case(
        "metrics of regression",
        spec(objective={"regression": {}}, training={"evaluation": {"metrics": ["r2"]}}),
    ),
    Case(
        "a loss for either objective",
        spec(objective={"regression": {}}, training={"earlyStopping": {"metric": "loss"}}),
    ),
    Case("16 variables from Secrets", spec(env=[_secret(f"V{number}") for number in range(16)])),
    Case("a key with dots", script_spec(env=[_secret("A", key=".aws_config-1", secret="s3.team")])),
    Case(
        "an unknown variable that only begins like a reserved one",
        script_spec(env=[{"name": "PATHS", "value": "/"}]),
    ),
]

ACCEPTED += [
    Case(
        "pairs with every column",
        _preference(
            {"columns": {"prompt": "q", "chosen": "good", "rejected": "bad"}},
            loss="DPO",
            beta=0.2,
            labelSmoothing=0.1,
            sftWeight=0.2,
        ),
    ),
    Case("pairs with a margin", _preference(loss="SimPO", margin=0.5)),
    Case(
        "answers with a label",
        _preference({"columns": {"completion": "answer", "label": "liked"}}, loss="KTO"),
    ),
    Case(
        "the accuracy of preferences",
        _preference() | {"training": {"evaluation": {"bestMetric": "rewards_margin"}}},
    ),
]

_ONLY_CAUSAL = {"objective": {"causalLM": {}}}


def _chat(dataset: Json, **causal: Any) -> Json:
    return _data(**dataset) | {"objective": {"causalLM": causal}}


ACCEPTED += [
    Case(
        "an adapter with every field",
        _model(
            adapter={
                "lora": {"rank": 4, "alpha": 8, "dropout": 0.05, "targetModules": ["query"], "merge": True}
            }
        ),
    ),
    Case("an adapter with its defaults", _model(adapter={"lora": {}})),
    *(
        Case(f"an adapter on weights in {weights}", _model(adapter={"lora": {}}, weights=weights))
        for weights in ("Auto", "Float32", "BFloat16", "NF4")
    ),
    *(
        Case(
            f"{weights} in shards, {kind}",
            spec(
                model={"uri": MODEL, "weights": weights, "adapter": {"lora": lora}},
                training={"sharding": "Full"},
            ),
        )
        for weights in ("BFloat16", "NF4")
        for kind, lora in {"published alone": {}, "not merged": {"merge": False}}.items()
    ),
    Case("frozen layers in 16 bits", _model(freeze={"layers": 1}, weights="BFloat16")),
    Case("a model of the Hub", _model(uri="hf://distilbert/distilbert-base-uncased@main")),
    Case("a model of the Hub without an organisation", _model(uri="hf://gpt2")),
    Case(
        "a gated model of the Hub",
        _model(uri="hf://org/model", credentials={"secretName": "hub"}),
    ),
    Case(
        "data of the Hub",
        _data(test={"uri": "hf://datasets/stanfordnlp/imdb@refs-convert/plain_text/test.parquet"}),
    ),
    Case(
        "data that the Hub converted",
        _data(
            train={"uri": "hf://datasets/stanfordnlp/imdb@refs/convert/parquet/plain_text/train/0000.parquet"}
        ),
    ),
    Case("a proposed change of a model", _model(uri="hf://org/model@refs/pr/12")),
    Case(
        "credentials for data alone",
        spec(
            model={"uri": "pvc://demo/model", "credentials": {"secretName": "hub"}},
            dataset={"train": {"uri": "hf://datasets/org/name/train.csv"}},
        ),
    ),
    Case(
        "credentials for the tokenizer alone",
        _model(credentials={"secretName": "hub"}, tokenizer={"uri": "hf://org/name"}),
    ),
    Case(
        "several labels a text", spec(objective={"classification": {"multiLabel": True, "labelSmoothing": 0}})
    ),
    Case(
        "several robust targets",
        spec(objective={"regression": {"targets": 3, "loss": "Huber", "normalize": True}}),
    ),
    Case(
        "token classification",
        spec(objective={"tokenClassification": {"labels": ["O", "B"], "classWeights": "Balanced"}}),
    ),
    Case(
        "a language model with packing",
        _data(columns={"prompt": "question"}, preprocessing={"packing": "Always"}) | _ONLY_CAUSAL,
    ),
    *(
        Case(f"conversations as {rows}", _chat({"rows": rows}, train="LastTurn", chatTemplate=template))
        for rows, template in (
            ("Messages", "ChatML"),
            ("PromptCompletion", "pvc://models/chat.jinja"),
            ("ShareGPT", "configMap://templates/chat.jinja"),
            ("Alpaca", "Plain"),
            ("Auto", "ChatML"),
        )
    ),
    Case(
        "a prompt in the column of texts",
        _chat({"rows": "PromptCompletion", "columns": {"prompt": "text", "completion": "answer"}}),
    ),
    Case("columns of messages and tools", _chat({"columns": {"messages": "turns", "tools": "functions"}})),
    Case("texts that are named so", _chat({"rows": "Text"}, maskPrompt=False)),
    Case(
        "metrics of a language model",
        spec(**_ONLY_CAUSAL, training={"evaluation": {"metrics": ["perplexity", "accuracy"]}}),
    ),
    *(
        Case(f"the schedule {schedule['name']}", spec(training={"schedule": schedule}))
        for schedule in (
            {"name": "Polynomial", "power": 2, "minRatio": 0},
            {"name": "InverseSqrt"},
            {"name": "WarmupStableDecay", "decay": {"ratio": 0.3}, "minRatio": 0.1},
            {"name": "OneCycle"},
            {"name": "Plateau", "plateau": {"factor": 0.1, "patience": 0, "minDelta": 0.01}},
        )
    ),
    Case("momentum", _optimizer(name="SGD", momentum=0.9)),
    Case("two nodes", spec(resources={"nodes": 2}, env=[{"name": "NCCL_DEBUG", "value": "INFO"}])),
    Case(
        "two pods in one zone",
        spec(resources={"nodes": 2}, scheduling={"topologyKey": "topology.kubernetes.io/zone"}),
    ),
    Case("the port of one pod", script_spec(env=[{"name": "MASTER_PORT", "value": "29501"}])),
]

_COLUMN_TWICE = "must be different columns; one column cannot be used twice"
_GIVEN_TWICE = "give either uri, or fraction with stratify, groupBy or seed"
_FOREIGN = "spec.training names a metric that classification does not have"
_ONE_VALUE = "set exactly one of value and valueFrom"
_RESERVED = "this variable controls the interpreter, the loader or the trainer"
_CLAIM = "write pvc://CLAIM/PATH, a folder or file"
_ACCELERATORS = "accelerators in requests and limits are held while nothing computes on them"
_MODEL = "write pvc://CLAIM/PATH, a folder on"
_DATA = "write pvc://CLAIM/PATH, a file on"

BROKEN_RULES = [
    Case("no model", spec(model=None), "spec.model is required"),
    Case("no dataset", spec(dataset=None), "spec.dataset is required"),
    Case("no objective", spec(objective=None), "spec.objective is required"),
    Case(
        "a script with an objective",
        script_spec(objective={"regression": {}}),
        "spec.objective does not apply",
    ),
    Case("a script with training", script_spec(training={}), "spec.training does not apply"),
    Case(
        "stratified regression",
        _data(validation={"stratify": True}) | {"objective": {"regression": {}}},
        "stratify needs one label per text",
    ),
    Case("a foreign best metric", spec(training={"evaluation": {"bestMetric": "eval_rmse"}}), _FOREIGN),
    Case("a foreign metric", spec(training={"evaluation": {"metrics": ["f1", "mae"]}}), _FOREIGN),
    Case("a foreign metric to stop by", spec(training={"earlyStopping": {"metric": "mse"}}), _FOREIGN),
    Case(
        "an error of words",
        spec(objective={"tokenClassification": {}}, training={"evaluation": {"bestMetric": "rmse"}}),
        "spec.training names a metric that tokenClassification does not have",
    ),
    Case(
        "a recall of language",
        spec(objective={"causalLM": {}}, training={"evaluation": {"bestMetric": "recall"}}),
        "spec.training names a metric that causalLM does not have",
    ),
    Case(
        "perplexity of preferences",
        _preference() | {"training": {"evaluation": {"bestMetric": "perplexity"}}},
        "spec.training names a metric that preference does not have",
    ),
    Case(
        "smoothed labels of SimPO",
        _preference(loss="SimPO", labelSmoothing=0.1),
        "labelSmoothing is for loss: DPO; remove it",
    ),
    Case(
        "cross-entropy beside ORPO's own",
        _preference(loss="ORPO", sftWeight=0.1),
        "sftWeight is for pairs: KTO has none",
    ),
    Case("a margin of the default loss", _preference(margin=0.5), "margin is for loss: SimPO"),
    Case(
        "chosen texts of a language model",
        _causal(columns={"chosen": "a"}),
        "chosen and rejected are for objective.preference",
    ),
    Case(
        "an answer of a classifier",
        _data(columns={"completion": "a"}),
        "columns.completion is for objective.causalLM and preference",
    ),
    Case(
        "one column with both answers",
        _preference({"columns": {"chosen": "a", "rejected": "a"}}),
        "prompt, chosen and rejected must be different columns",
    ),
    Case(
        "answers in the default column of prompts",
        _preference({"columns": {"chosen": "prompt"}}),
        "prompt, chosen and rejected must be different columns",
    ),
    Case(
        "a second text beside answers",
        _preference({"columns": {"textPair": "b"}}),
        "columns.textPair is not for objective.preference",
    ),
    Case(
        "an ensemble of preferences",
        _preference() | {"ensemble": {"members": 3}},
        "spec.ensemble does not combine models of objective.preference",
    ),
    Case(
        "a head for preferences",
        _preference() | {"model": {"uri": "pvc://models/a", "head": {}}},
        "spec.model.head makes one vector of a text, but objective.preference predicts tokens",
    ),
    Case(
        "accuracy of regression",
        spec(objective={"regression": {}}, training={"evaluation": {"bestMetric": "accuracy"}}),
        "spec.training names a metric that regression does not have",
    ),
    Case(
        "both epochs and steps",
        spec(training={"epochs": 1, "maxSteps": 10}),
        "give either epochs or maxSteps",
    ),
    Case(
        "an average that never gets an update",
        spec(training={"maxSteps": 10, "ema": {"every": 11}}),
        "ema.every must not be larger than maxSteps",
    ),
    Case(
        "a micro-batch larger than the batch",
        spec(training={"batchSize": 8, "microBatchSize": 16}),
        "microBatchSize must not be larger than batchSize",
    ),
    Case(
        "a micro-batch larger than the default batch",
        spec(training={"microBatchSize": 33}),
        "microBatchSize must not be larger than batchSize",
    ),
    Case("a file and a share", _data(validation={"uri": REVIEWS, "fraction": 0.1}), _GIVEN_TWICE),
    Case("a file, stratified", _data(validation={"uri": REVIEWS, "stratify": False}), _GIVEN_TWICE),
    Case("a file with a seed", _data(validation={"uri": REVIEWS, "seed": 0}), _GIVEN_TWICE),
    Case("a file in groups", _data(validation={"uri": REVIEWS, "groupBy": "id"}), _GIVEN_TWICE),
    Case("a column as text and pair", _data(columns={"text": "a", "textPair": "a"}), _COLUMN_TWICE),
    Case("the default column as text and pair", _data(columns={"textPair": "text"}), _COLUMN_TWICE),
    Case("a column as pair and label", _data(columns={"textPair": "label"}), _COLUMN_TWICE),
    Case("a column as prompt and text", _causal(columns={"prompt": "text"}), _COLUMN_TWICE),
    Case("a column as prompt and pair", _causal(columns={"prompt": "a", "textPair": "a"}), _COLUMN_TWICE),
    Case("a column as text and label", _data(columns={"text": "label"}), "text and label must be different"),
    Case("the format of a share", _data(validation={"format": "csv"}), "format belongs to uri"),
    Case(
        "stratified groups",
        _data(validation={"stratify": True, "groupBy": "id"}),
        "stratify: true cannot be combined with groupBy",
    ),
    Case("a variable without a value", spec(env=[{"name": "A"}]), _ONE_VALUE),
    Case("a variable with two values", spec(env=[_secret("A") | {"value": ""}]), _ONE_VALUE),
    Case(
        "17 variables from Secrets",
        spec(env=[_secret(f"V{number}") for number in range(17)]),
        "at most 16 variables of spec.env can come from Secrets",
    ),
    Case("a reserved name from a Secret", script_spec(env=[_secret("PATH")]), _RESERVED),
    Case("a reserved prefix", script_spec(env=[{"name": "LD_PRELOAD", "value": "x.so"}]), _RESERVED),
    Case("our own prefix", script_spec(env=[{"name": "FINETUNE_MODEL_DIR", "value": "/"}]), _RESERVED),
    Case("a reserved name", spec(env=[{"name": "PATH", "value": "/"}]), _RESERVED),
    Case("a model in a ConfigMap", _model(uri="configMap://tiny/model"), _MODEL),
    Case("a claim without a path", _model(tokenizer={"uri": "pvc://demo"}), _MODEL),
    Case("a repository in a repository", _model(uri="hf://org/name/model"), _MODEL),
    Case("a tokenizer of nothing", _model(tokenizer={}), "give uri (another tokenizer) or addTokens"),
    Case(
        "more asked for than allowed",
        _resources(requests={"cpu": 4}, limits={"cpu": "3500m"}),
        "a request is larger than the limit",
    ),
    Case(
        "more memory asked for in another unit",
        _resources(requests={"memory": "1Gi"}, limits={"memory": "1G"}),
        "a request is larger than the limit",
    ),
    *(
        Case(
            f"{name} of {size}",
            _resources(limits={name: size}),
            "memory and ephemeral-storage are counted in bytes: 8 is 8 bytes",
        )
        for name in ("memory", "ephemeral-storage")
        for size in (8, "512m", "1048575")
    ),
    *(
        Case(f"shared memory of {size}", _resources(sharedMemory=size), "sharedMemory is counted in bytes")
        for size in (1, "64m", 0)
    ),
    *(
        Case(f"{name} as a resource", _resources(limits={name: 1}), "a name in requests and limits is cpu")
        for name in (
            "gpu",
            "storage",
            "pods",
            "hugepages-",
            "kubernetes.io/x",
            "requests.rdma/hca",
            "a_b/c",
            "a/b/c",
        )
    ),
    *(
        Case(
            f"GPUs in {place}",
            _resources(**{place: {"nvidia.com/gpu": 1}}),
            "GPUs and parts of them are not written in requests",
        )
        for place in ("requests", "limits")
    ),
    *(
        Case(
            f"{name} in limits",
            _resources(limits={name: 1}),
            "GPUs and parts of them are not written in requests",
        )
        for name in ("nvidia.com/mig-1g.5gb", "nvidia.com/gpu.shared", "gpu.intel.com/i915")
    ),
    Case(
        "accelerators of another name in limits",
        _resources(gpuResource="habana.ai/gaudi", limits={"habana.ai/gaudi": 1}),
        "GPUs and parts of them are not written in requests",
    ),
    *(
        Case(f"{name} in {place}", _resources(**{place: {name: 1}}), _ACCELERATORS)
        for place in ("requests", "limits")
        for name in (
            "google.com/tpu",
            "habana.ai/gaudi",
            "aws.amazon.com/neuron",
            "aws.amazon.com/neuroncore",
            "huawei.com/Ascend910",
            "intel.com/xpu",
            "cambricon.com/mlu",
            "volcano.sh/vgpu-number",
            "amd.com/cpx_nps4",
        )
    ),
    *(
        Case(f"{name} beside the CPU", _resources(gpusPerNode=0, limits={name: 1}), _ACCELERATORS)
        for name in (
            "nvidia.com/GPU",
            "aliyun.com/gpu-mem",
            "nvidia.com/gpumem",
            "tencent.com/vcuda-core",
            "rebellions.ai/ATOM",
            "alpha.furiosa.ai/warboy",
            "metax-tech.com/vcore",
            "birentech.com/1-4-gpu",
            "npu.intel.com/accel",
            "qualcomm.com/qaic",
        )
    ),
    Case(
        "half a card",
        _resources(limits={"rdma/hca": "500m"}),
        "an extended resource is counted in whole units",
    ),
    Case("a card in requests alone", _resources(requests={"rdma/hca": 1}), "cannot be overcommitted"),
    Case(
        "more hugepages in limits",
        _resources(requests={"hugepages-2Mi": "2Mi", "cpu": 1}, limits={"hugepages-2Mi": "4Mi"}),
        "cannot be overcommitted",
    ),
    Case(
        "a topology key of one pod",
        spec(scheduling={"topologyKey": "topology.kubernetes.io/zone"}),
        "spec.scheduling.topologyKey keeps the pods of a job on several nodes together",
    ),
    Case(
        "a rank for all pods",
        script_spec(resources={"nodes": 2}, env=[{"name": "RANK", "value": "0"}]),
        "the operator sets RANK, WORLD_SIZE, MASTER_ADDR, PET_NODE_RANK",
    ),
    Case("hugepages alone", _resources(limits={"hugepages-1Gi": "1Gi"}), "hugepages need cpu or memory"),
    Case("a toleration of nothing", _tolerated(effect="NoSchedule"), "a toleration without key"),
    Case("a value without a key", _tolerated(operator="Equal", value="x"), "a toleration without key"),
    Case(
        "any taint of a value",
        _tolerated(key="gpu", operator="Exists", value="a"),
        "operator Exists takes no",
    ),
    Case("seconds without effect", _tolerated(key="gpu", tolerationSeconds=5), "tolerationSeconds belongs"),
    Case(
        "seconds for another effect",
        _tolerated(key="gpu", effect="NoSchedule", tolerationSeconds=5),
        "tolerationSeconds belongs",
    ),
    *(
        Case(f"the label {key!r}", spec(scheduling={"nodeSelector": {key: "a"}}), "a key of nodeSelector is")
        for key in ("a b", "-a", "Zone.example/a", "a/b/c", "x" * 64, "example.com/")
    ),
    Case(
        "nothing to unfreeze",
        _model(freeze={"unfreezeEvery": {"steps": 1}}),
        "unfreezeEvery unfreezes the layers",
    ),
    Case("a norm of nothing", _model(head={"batchNorm": True}), "batchNorm normalises hidden layers"),
    Case(
        "frozen twice",
        _model(adapter={"lora": {}}, freeze={"layers": 1}),
        "model.adapter already freezes the whole",
    ),
    Case("four bits that are trained", _model(weights="NF4"), "NF4 keeps the model in 4 bits"),
    Case(
        "four bits of frozen layers",
        _model(weights="NF4", freeze={"layers": 1}),
        "NF4 keeps the model in 4 bits",
    ),
    Case(
        "fewer bits of trained weights", _model(weights="BFloat16"), "model.weights is about frozen weights"
    ),
    *(
        Case(
            f"{weights} of random weights",
            _model(weights=weights, adapter={"lora": {}}, initialize="Random"),
            "model.weights keeps pretrained weights in fewer bits",
        )
        for weights in ("BFloat16", "NF4")
    ),
    *(
        Case(
            f"{weights} in shards, merged",
            spec(
                model={"uri": MODEL, "weights": weights, "adapter": {"lora": {"merge": True}}},
                training={"sharding": "Full"},
            ),
            "needs an adapter that is published alone",
        )
        for weights in ("BFloat16", "NF4")
    ),
    Case(
        "frozen layers of 16 bits in shards",
        spec(
            model={"uri": MODEL, "weights": "BFloat16", "freeze": {"layers": 1}},
            training={"sharding": "Full"},
        ),
        "needs an adapter that is published alone",
    ),
    *(
        Case(
            f"{weights} over a tensor group",
            spec(
                model={"uri": MODEL, "weights": weights, "adapter": {"lora": {}}},
                training={"tensorParallel": 2},
            ),
            "BFloat16 or NF4 is not supported with spec.training.tensorParallel",
        )
        for weights in ("BFloat16", "NF4")
    ),
    Case(
        "a custom head over a tensor group",
        spec(model={"uri": MODEL, "head": {}}, training={"tensorParallel": 2}),
        "spec.model.head is not supported with spec.training.tensorParallel",
    ),
    Case(
        "a tensor group of two of three GPUs",
        spec(training={"tensorParallel": 2}, resources={"gpusPerNode": 3}),
        "spec.training.tensorParallel does not divide the number of GPUs",
    ),
    Case(
        "a tensor group without GPUs",
        spec(training={"tensorParallel": 2}, resources={"gpusPerNode": 0}),
        "spec.training.tensorParallel does not divide the number of GPUs",
    ),
    Case(
        "statistics of layers that no GPU has",
        spec(training={"tensorParallel": 2, "debug": {"statisticsEvery": 5}}),
        "debug.statisticsEvery looks at whole layers",
    ),
    Case(
        "layers that an adapter leaves",
        _model(adapter={"lora": {}}, layerLearningRateDecay=0.9),
        "model.adapter does not train the model's layers",
    ),
    Case(
        "credentials for claims",
        _model(credentials={"secretName": "hub"}),
        "spec.model.credentials is for models",
    ),
    Case(
        "smoothing of several labels",
        spec(objective={"classification": {"multiLabel": True, "labelSmoothing": 0.1}}),
        "labelSmoothing is for one label per text",
    ),
    Case(
        "the power of another schedule",
        spec(training={"schedule": {"power": 2}}),
        "power belongs to the schedule Polynomial",
    ),
    Case(
        "the end of a schedule without one",
        spec(training={"schedule": {"name": "OneCycle", "minRatio": 0.1}}),
        "minRatio applies to",
    ),
    Case(
        "the decay of another schedule",
        spec(training={"schedule": {"name": "Cosine", "decay": {"steps": 3}}}),
        "decay belongs to the schedule",
    ),
    Case(
        "the plateau of another schedule",
        spec(training={"schedule": {"plateau": {}}}),
        "plateau belongs to the schedule",
    ),
    Case(
        "a prompt of a classifier", _data(columns={"prompt": "p"}), "columns.prompt is for objective.causalLM"
    ),
    Case(
        "packing of a classifier",
        _data(preprocessing={"packing": "Always"}),
        "preprocessing.packing is for objective.causalLM",
    ),
    Case("conversations of a classifier", _data(rows="Messages"), "conversations are for objective.causalLM"),
    Case(
        "messages of a classifier",
        _data(columns={"messages": "chat"}),
        "columns.messages and tools are for objective.causalLM",
    ),
    Case("trained turns of texts", _chat({"rows": "Text"}, train="All"), "are for conversations"),
    Case("a chat template of texts", _chat({"rows": "Text"}, chatTemplate="ChatML"), "are for conversations"),
    Case(
        "the prompt's mask of conversations", _chat({"rows": "Alpaca"}, maskPrompt=False), "write train: All"
    ),
    Case("an unknown chat template", _chat({}, chatTemplate="chatml"), "write ChatML or Plain"),
    Case(
        "a chat template out of its folder", _chat({}, chatTemplate="pvc://a/../b"), "write ChatML or Plain"
    ),
    Case(
        "messages beside a prompt",
        _chat({"columns": {"messages": "chat", "prompt": "question"}}),
        "messages hold a whole conversation",
    ),
    Case(
        "one column for question and answer",
        _chat({"columns": {"prompt": "p", "completion": "p"}}),
        "prompt and completion must be different columns",
    ),
    Case("an output out of its folder", spec(output={"uri": "pvc://models/../secrets"}), _CLAIM),
    Case("data on a path of the machine", _data(train={"uri": "/data/rows.csv"}), _DATA),
    Case(
        "validation data at no known kind of place", _data(validation={"uri": "ftp://host/rows.csv"}), _DATA
    ),
]

_SGD = {"path": "training.optimizer.name", "values": ["SGD"]}
_MOMENTUM: Json = {"path": "training.optimizer.momentum", "choice": [0.9], "when": _SGD}
_WHEN = "when.path must be the path of another parameter"
_FIXED = "bestMetric cannot be searched"
_MEMBERS = "set exactly one of members, overrides and fromSearch"
BROKEN_RULES += [
    Case(
        "two ranges of one parameter",
        _search(RATES | {"uniform": {"min": 0.1, "max": 1}}),
        "set exactly one of choice, uniform, logUniform and integer",
    ),
    Case(
        "an empty range",
        _search({"path": RATE, "uniform": {"min": 1, "max": 1}}),
        "min must be less than max",
    ),
    Case(
        "an empty range of logarithms",
        _search({"path": RATE, "logUniform": {"min": 1, "max": 0.1}}),
        "min must be",
    ),
    Case(
        "an empty range of integers",
        _search({"path": "training.epochs", "integer": {"min": 3, "max": 2}}),
        "min m",
    ),
    Case("the training rows", _search({"path": "dataset.train.uri", "choice": ["pvc://a/b.csv"]}), _FIXED),
    Case("the validation rows", _search({"path": "dataset.validation.fraction", "choice": [0.1]}), _FIXED),
    Case("the test rows", _search({"path": "dataset.test.uri", "choice": ["pvc://a/b.csv"]}), _FIXED),
    Case("the metric", _search({"path": "training.evaluation.bestMetric", "choice": ["f1"]}), _FIXED),
    Case(
        "the Secrets of others",
        _search({"path": "model.credentials.secretName", "choice": ["theirs"]}),
        "model.credentials cannot be searched",
    ),
    Case(
        "the Secrets of others as an object",
        _search({"path": "model.credentials", "choice": [{"secretName": "theirs"}]}),
        "model.credentials cannot be searched",
    ),
    Case("a grid of a range", _search(RATES, algorithm="Grid"), "algorithm Grid needs choice or integer"),
    Case("a condition on nothing", _search(RATES, _MOMENTUM), _WHEN),
    Case("a condition on itself", _search(_MOMENTUM | {"path": _SGD["path"]}), _WHEN),
    Case(
        "a condition on a condition",
        _search(
            _MOMENTUM, {"path": _SGD["path"], "choice": ["SGD"], "when": {"path": RATE, "values": [1]}}, RATES
        ),
        _WHEN,
    ),
    Case(
        "a field inside another searched field",
        _search(
            {"path": "model.adapter.lora.rank", "choice": [4, 8]},
            {"path": "model.adapter", "choice": [{"lora": {}}]},
        ),
        "a path must not be inside the path of another parameter",
    ),
    *(
        Case(
            f"what the runs of {part} have forgotten",
            spec(training={"evaluation": {"forgetting": [{"uri": REVIEWS}]}}, **{part: fields}),
            "spec.training.evaluation.forgetting is not supported with spec.search or spec.ensemble",
        )
        for part, fields in {"search": {"parameters": [RATES]}, "ensemble": {"members": 2}}.items()
    ),
    Case(
        "other rows on the Hub",
        spec(training={"evaluation": {"forgetting": [{"uri": "hf://datasets/a/b/c.csv"}]}}),
        "copy data of the Hub to a claim first",
    ),
    Case(
        "samples of a classifier",
        spec(training={"evaluation": {"samples": 3}}),
        "spec.training.evaluation.samples is for objective.causalLM",
    ),
    Case("a gate without a threshold", spec(gate={"metric": "accuracy"}), "set exactly one of min (metrics"),
    Case(
        "a gate with two thresholds",
        spec(gate={"metric": "accuracy", "min": 0.8, "betterThanBaselineBy": 0.1}),
        "set exactly one of min (metrics",
    ),
    Case(
        "a smallest loss",
        spec(gate={"metric": "loss", "min": 0.5}),
        "min does not fit a metric where lower is better; write max instead",
    ),
    Case(
        "an accuracy in percent",
        spec(gate={"metric": "eval_accuracy", "min": 80}),
        "min is above 1, which this metric never is; for 80 % write 0.8",
    ),
    Case(
        "a gain in percentage points",
        spec(gate={"metric": "f1", "betterThanBaselineBy": 2}),
        "which a metric from 0 to 1 cannot gain; for 2",
    ),
    Case(
        "a drop in percentage points",
        spec(
            training={
                "evaluation": {"forgetting": [{"uri": REVIEWS, "maxDrop": 5}], "bestMetric": "accuracy"}
            }
        ),
        "so no model would be refused; for 2 percentage points write 0.02",
    ),
    Case(
        "a drop in percentage points of the gate's metric",
        spec(
            training={"evaluation": {"forgetting": [{"uri": REVIEWS, "maxDrop": 1}]}},
            gate={"metric": "f1", "min": 0.5},
        ),
        "so no model would be refused; for 2 percentage points write 0.02",
    ),
    Case(
        "an improvement in percentage points",
        spec(training={"earlyStopping": {"minDelta": 1}, "evaluation": {"bestMetric": "accuracy"}}),
        "earlyStopping.minDelta is 1 or more",
    ),
    Case(
        "an improvement in percentage points of the stopping metric",
        spec(training={"earlyStopping": {"minDelta": 1, "metric": "eval_f1"}}),
        "earlyStopping.minDelta is 1 or more",
    ),
    Case(
        "a plateau in percentage points",
        spec(
            training={
                "schedule": {"name": "Plateau", "plateau": {"minDelta": 1}},
                "evaluation": {"bestMetric": "accuracy"},
            }
        ),
        "schedule.plateau.minDelta is 1 or more",
    ),
    Case(
        "a largest accuracy",
        spec(gate={"metric": "eval_accuracy", "max": 0.5}),
        "max does not fit a metric where higher is better; write min instead",
    ),
    *(
        Case(
            f"a gate on a metric that {objective} does not have",
            spec(gate={"metric": metric, "betterThanBaselineBy": 0.1}) | {"objective": {objective: {}}},
            f"spec.gate.metric for objective.{objective} is one of loss, ",
        )
        for objective, metric in {
            "preference": "rmse",
            "classification": "rmse",
            "regression": "accuracy",
            "tokenClassification": "perplexity",
            "causalLM": "f1",
        }.items()
    ),
    Case(
        "a gate on a script",
        script_spec(gate={"metric": "accuracy", "min": 0.8}),
        "spec.gate does not apply to your own script",
    ),
    Case(
        "an ensemble against the baseline",
        spec(ensemble={"members": 2}, gate={"metric": "accuracy", "betterThanBaselineBy": 0.1}),
        "spec.gate.betterThanBaselineBy is not supported with spec.ensemble",
    ),
    Case("an ensemble of nothing", _ensemble(combine="Vote") | _BY_ACCURACY, _MEMBERS),
    Case("seeds and overrides", _ensemble(members=2, overrides=[{"training.seed": 1}] * 2), _MEMBERS),
    Case("more members wanted than there are", _ensemble(members=2, minMembers=3), "minMembers must not be"),
    Case(
        "more overrides wanted than there are",
        _ensemble(overrides=[{"training.seed": 1}, {"training.seed": 2}], minMembers=3),
        "minMembers must not be",
    ),
    Case(
        "the best of no search", _ensemble(fromSearch=3), "combines the best trials of spec.search: set both"
    ),
    Case(
        "members beside a search",
        spec(search={"parameters": [RATES]}, ensemble={"members": 3}),
        "combines the best trials of spec.search: set both",
    ),
    Case(
        "an ensemble of scripts",
        script_spec(ensemble={"members": 3}),
        "spec.ensemble does not apply to your own script",
    ),
    *(
        Case(
            f"{rule} for {objective}",
            _ensemble(members=3, combine=rule) | {"objective": {objective: {}}} | _BY_ACCURACY,
            f"spec.ensemble.combine for objective.{objective} is one of",
        )
        for objective, rule in {
            "classification": "AveragePredictions",
            "tokenClassification": "AveragePredictions",
            "causalLM": "Vote",
        }.items()
    ),
    Case(
        "probabilities of numbers",
        _ensemble(members=3, combine="AverageProbabilities") | {"objective": {"regression": {}}},
        "spec.ensemble.combine for objective.regression is one of",
    ),
    *(
        Case(
            f"a folder without room for those of {part}, {length} characters",
            spec(output={"uri": uri}) | {part: fields},
            "must have at most 500 characters, and its last folder at most 119",
        )
        for part, fields in {"search": {"parameters": [RATES]}, "ensemble": {"members": 2}}.items()
        for uri in (f"pvc://c/{'f' * 120}", f"pvc://c/{'f/' * 246}f")
        for length in [len(uri)]
    ),
    Case(
        "more metrics than an ensemble reports",
        _ensemble(members=2)
        | {"training": {"evaluation": {"metrics": ["accuracy", "f1", "precision", "recall", "mcc"]}}},
        "a job with spec.ensemble has at most 4 metrics",
    ),
    Case(
        "a student's options for votes",
        _ensemble(members=2, combine="Vote", distil={"alpha": 0.9}) | _BY_ACCURACY,
        "distil is for combine: Distil",
    ),
    Case(
        "a temperature of numbers",
        _ensemble(members=2, combine="Distil", distil={"temperature": 4}) | {"objective": {"regression": {}}},
        "spec.ensemble.distil.temperature is for probabilities",
    ),
    Case(
        "a student of language models",
        _ensemble(members=2, combine="Distil") | {"objective": {"causalLM": {}}},
        "spec.ensemble.combine for objective.causalLM is one of AverageWeights, GreedySoup",
    ),
    Case("votes compared by loss", _ensemble(members=3, combine="Vote"), "votes have no loss"),
    Case(
        "a preflight of a script",
        script_spec(preflight="Required"),
        "spec.preflight does not apply to your own script",
    ),
    Case(
        "a search for a script",
        script_spec(search={"parameters": [RATES]}),
        "spec.search does not apply to your own script",
    ),
]

WRONG_TYPES_AND_BOUNDS = [
    *(
        Case(f"the queue {name!r}", spec(scheduling={"queue": name}), field="spec.scheduling.queue")
        for name in ("", "Team-A", "a/b", "-a", "a" * 64)
    ),
    Case(
        "a claim without a template",
        _resources(claims=[{"name": "a"}]),
        field="spec.resources.claims[0].resourceClaimTemplateName",
    ),
    Case("a rate in quotes", _optimizer(learningRate="5e-5"), field="spec.training.optimizer.learningRate"),
    Case("a rate of zero", _optimizer(learningRate=0), field="spec.training.optimizer.learningRate"),
    Case("a rate above one", _optimizer(learningRate=5), field="spec.training.optimizer.learningRate"),
    Case(
        "a student that learns from its labels alone",
        _ensemble(members=2, combine="Distil", distil={"alpha": 0}),
        field="spec.ensemble.distil.alpha",
    ),
    Case(
        "a temperature of zero",
        _ensemble(members=2, combine="Distil", distil={"temperature": 0}),
        field="spec.ensemble.distil.temperature",
    ),
    Case("a decay of zero", spec(training={"ema": {"decay": 0}}), field="spec.training.ema.decay"),
    Case("a decay of one", spec(training={"ema": {"decay": 1}}), field="spec.training.ema.decay"),
    Case("an average of no step", spec(training={"ema": {"every": 0}}), field="spec.training.ema.every"),
    Case("three betas", _optimizer(betas=[0.9, 0.99, 0.999]), field="spec.training.optimizer.betas"),
    Case("a beta of one", _optimizer(betas=[0.9, 1]), field="spec.training.optimizer.betas[1]"),
    Case("an unknown optimizer", _optimizer(name="adamw"), field="spec.training.optimizer.name"),
    Case("a fraction of a batch", spec(training={"batchSize": 1.5}), field="spec.training.batchSize"),
    Case("a batch in quotes", spec(training={"batchSize": "32"}), field="spec.training.batchSize"),
    Case("an empty batch", spec(training={"batchSize": 0}), field="spec.training.batchSize"),
    Case(
        "an unknown metric",
        spec(training={"evaluation": {"metrics": ["auc"]}}),
        field="spec.training.evaluation.metrics[0]",
    ),
    Case("suspended in quotes", spec(suspend="true"), field="spec.suspend"),
    Case("a negative time", spec(ttlSecondsAfterFinished=-1), field="spec.ttlSecondsAfterFinished"),
    Case("a deadline of nothing", spec(activeDeadlineSeconds=0), field="spec.activeDeadlineSeconds"),
    Case("a command that is a text", script_spec(command="python train.py"), field="spec.command"),
    Case("an empty command", script_spec(command=[]), field="spec.command"),
    Case("a number as an argument", script_spec(command=["run", 1]), field="spec.command[1]"),
    Case("an image with a space", spec(image="a b"), field="spec.image"),
    *(
        Case(
            f"the label value {value!r}",
            spec(scheduling={"nodeSelector": {"gpu": value}}),
            field="spec.scheduling.nodeSelector.gpu",
        )
        for value in ("a b", "-a", "a/b", "x" * 64)
    ),
    Case("a taint that no node has", _tolerated(key="a b"), field="spec.scheduling.tolerations[0].key"),
    Case("a taint's value", _tolerated(key="a", value="b c"), field="spec.scheduling.tolerations[0].value"),
    Case("a GPU without a name", _resources(gpuResource="nvidia.com/"), field="spec.resources.gpuResource"),
    Case("a GPU of no domain", _resources(gpuResource="-a.b/gpu"), field="spec.resources.gpuResource"),
    Case("no node", spec(resources={"nodes": 0}), field="spec.resources.nodes"),
    Case("more nodes than there may be", spec(resources={"nodes": 65}), field="spec.resources.nodes"),
    Case(
        "a topology key that is no label's name",
        spec(resources={"nodes": 2}, scheduling={"topologyKey": "a b"}),
        field="spec.scheduling.topologyKey",
    ),
    Case(
        "a fraction of a cpu without quotes",
        spec(resources={"limits": {"cpu": 0.5}}),
        field="spec.resources.limits.cpu",
    ),
    Case("less than no cpu", spec(resources={"limits": {"cpu": -1}}), field="spec.resources.limits.cpu"),
    Case(
        "less than no cpu in quotes",
        spec(resources={"limits": {"cpu": "-1"}}),
        field="spec.resources.limits.cpu",
    ),
    Case(
        "an unknown unit",
        spec(resources={"requests": {"memory": "16GB"}}),
        field="spec.resources.requests.memory",
    ),
    Case("less than no invalid rows", _data(maxInvalidRows=-1), field="spec.dataset.maxInvalidRows"),
    Case(
        "less than no invalid rows in quotes", _data(maxInvalidRows="-1"), field="spec.dataset.maxInvalidRows"
    ),
    Case("more than all rows", _data(maxInvalidRows="101%"), field="spec.dataset.maxInvalidRows"),
    Case(
        "half of the rows without a percent sign",
        _data(maxInvalidRows=0.5),
        field="spec.dataset.maxInvalidRows",
    ),
    Case("no training data", spec(dataset={}), field="spec.dataset.train"),
    Case(
        "a format that is not read",
        _data(train={"uri": REVIEWS, "format": "JSONL"}),
        field="spec.dataset.train.format",
    ),
    Case("nothing held out", _data(validation={"fraction": 0}), field="spec.dataset.validation.fraction"),
    Case("no objective chosen", spec(objective={}), field="spec.objective"),
    Case("an objective without a value", spec(objective={"classification": None}), field="spec.objective"),
    Case("two objectives", spec(objective={"classification": {}, "regression": {}}), field="spec.objective"),
    Case(
        "two warmups",
        spec(training={"schedule": {"warmup": {"ratio": 0.1, "steps": 1}}}),
        field="spec.training.schedule.warmup",
    ),
    Case(
        "one label",
        spec(objective={"classification": {"labels": ["a"]}}),
        field="spec.objective.classification.labels",
    ),
    Case(
        "a label twice",
        spec(objective={"classification": {"labels": ["a", "b", "a"]}}),
        field="spec.objective.classification.labels",
    ),
    Case(
        "a label that is a number",
        spec(objective={"classification": {"labels": [0, 1]}}),
        field="spec.objective.classification.labels[0]",
    ),
    Case(
        "a variable twice",
        spec(env=[{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]),
        field="spec.env",
    ),
    Case(
        "a variable from a Secret without a key",
        spec(env=[_secret("A", key=None)]),
        field="spec.env[0].valueFrom.secretKeyRef.key",
    ),
    Case(
        "a variable from a Secret with an odd key",
        spec(env=[_secret("A", key="a/b")]),
        field="spec.env[0].valueFrom.secretKeyRef.key",
    ),
    Case(
        "a variable from nothing",
        spec(env=[{"name": "A", "valueFrom": {}}]),
        field="spec.env[0].valueFrom.secretKeyRef",
    ),
    Case(
        "a variable from a ConfigMap",
        spec(env=[_secret("A") | {"valueFrom": {"configMapKeyRef": {"name": "a", "key": "b"}}}]),
        field="spec.env[0].valueFrom.configMapKeyRef",
    ),
    Case("a variable with a dash", spec(env=[{"name": "A-B", "value": ""}]), field="spec.env[0].name"),
    Case(
        "a name that is none",
        spec(scheduling={"imagePullSecrets": ["Registry"]}),
        field="spec.scheduling.imagePullSecrets[0]",
    ),
    Case("a list for an object", spec(model=[]), field="spec.model"),
]

UNKNOWN_FIELDS = [
    Case("an unknown top-level field", spec(modle={}), field="spec.modle"),
    Case("a field in snake case", spec(training={"batch_size": 8}), field="spec.training.batch_size"),
    Case(
        "a field in lower case", _optimizer(learningrate=1e-4), field="spec.training.optimizer.learningrate"
    ),
    Case(
        "a field of another objective",
        spec(objective={"regression": {"labels": []}}),
        field="spec.objective.regression.labels",
    ),
]

CASES = ACCEPTED + BROKEN_RULES + WRONG_TYPES_AND_BOUNDS

NAMES = {
    "a": True,
    "movie-sentiment-2": True,
    "a" * 40: True,
    "a" * 41: False,
    "2-movies": False,
    "movie.sentiment": False,
}
"""Names of jobs; both the server's own rule for names and ours hold."""
NAME_MESSAGE = "metadata.name must have at most 40 characters"
NAMES_OF_PARENTS = {"tune": True, "a" * 26: True, "a" * 27: False}
ENDED_SEARCH = {
    field: f"the search has ended, so raising spec.search.{field} has no effect"
    for field in ("maxTrials", "maxDeviceSeconds")
}
NAME_OF_A_PARENT = "metadata.name of a job with spec.search or spec.ensemble must have at most 26 characters"

_CHANGES: dict[str, tuple[Json, Json]] = {
    "model": ({"uri": MODEL}, {"uri": "pvc://demo/models/other"}),
    "dataset": ({"train": {"uri": REVIEWS}}, {"train": {"uri": "pvc://demo/data/other.jsonl"}}),
    "objective": ({"classification": {}}, {"regression": {}}),
    "training": ({"epochs": 1}, {"epochs": 2}),
    "preflight": ("Required", "Skip"),
    "retry": ({"limit": 1}, {"limit": 2}),
    "output": ({"uri": "pvc://models/a"}, {"uri": "pvc://models/b"}),
    "gate": ({"metric": "accuracy", "min": 0.8}, {"metric": "accuracy", "min": 0.7}),
    "image": ("example.test/a:1", "example.test/a:2"),
    "command": (["python", "a.py"], ["python", "b.py"]),
    "env": ([{"name": "A", "value": "1"}], [{"name": "A", "value": "2"}]),
    "resources": ({"gpusPerNode": 0}, {"gpusPerNode": 1}),
    "scheduling": ({"nodeSelector": {"gpu": "a100"}}, {"nodeSelector": {"gpu": "h100"}}),
}
_WHILE_SUSPENDED = ("resources", "scheduling")
_SEEDS: list[Json] = [{"training.seed": 1}, {"training.seed": 2}]
_OTHER_SEEDS: list[Json] = [{"training.seed": 1}, {"training.seed": 3}]


def _updates(field: str, value: Any, other: Any) -> list[Update]:
    """Change the field, add it, remove it; only what is there before need be valid."""
    absent = script_spec() if field in ("model", "dataset", "objective") else spec()
    present = script_spec(command=value) if field == "command" else spec(**{field: value})
    removed = {name: part for name, part in present.items() if name != field}
    message = (
        f"spec.{field} can be changed only while spec.suspend is true"
        if field in _WHILE_SUSPENDED
        else f"spec.{field} cannot be changed after creation; create a new FineTuneJob"
    )
    return [
        Update(f"change {field}", present, present | {field: other}, message),
        Update(f"add {field}", absent, absent | {field: value}, message),
        Update(f"remove {field}", present, removed, message),
    ]


UPDATES = [
    *(update for field, (value, other) in _CHANGES.items() for update in _updates(field, value, other)),
    Update(
        "another order of the labels, which gives them other ids",
        spec(objective={"classification": {"labels": ["neg", "pos"]}}),
        spec(objective={"classification": {"labels": ["pos", "neg"]}}),
        "the order of labels defines their ids and cannot be changed",
    ),
    *(
        Update(
            f"another {field} of a search",
            _search(RATES, **{field: value}),
            _search(RATES, **({field: other} if other is not None else {})),
            f"spec.search.{field} cannot be changed",
        )
        for field, value, other in [
            ("algorithm", "Random", "TPE"),
            ("maxFailedTrials", 1, 2),
            ("patience", 5, None),
            ("pruner", {"asha": {}}, {"asha": {"minEpochs": 2}}),
            ("confirm", {"top": 1}, {"top": 2}),
            ("keepModels", "All", "Best"),
            ("seed", 1, None),
        ]
    ),
    Update(
        "another range",
        _search(RATES),
        _search(RATES | {"logUniform": {"min": 1e-5, "max": 0.1}}),
        "spec.search.parameters cannot be changed",
    ),
    Update(
        "another choice, of a type that the schema does not know",
        _search({"path": "training.schedule", "choice": [{"name": "Cosine"}]}),
        _search({"path": "training.schedule", "choice": [{"name": "Linear"}]}),
        "spec.search.parameters cannot be changed",
    ),
    Update(
        "fewer trials",
        _search(RATES, maxTrials=10),
        _search(RATES, maxTrials=9),
        "spec.search.maxTrials can be raised, but not lowered",
    ),
    Update(
        "a smaller budget",
        _search(RATES, maxDeviceSeconds=100),
        _search(RATES, maxDeviceSeconds=99),
        "spec.search.maxDeviceSeconds can be raised, but not lowered",
    ),
    *(
        Update(
            f"another {field} of an ensemble",
            _ensemble(**before) | ({"search": {"parameters": [RATES]}} if "fromSearch" in before else {}),
            _ensemble(**after) | ({"search": {"parameters": [RATES]}} if "fromSearch" in after else {}),
            f"spec.ensemble.{field} cannot be changed",
        )
        for field, before, after in [
            ("members", {"members": 3}, {"members": 4}),
            ("fromSearch", {"fromSearch": 3}, {"fromSearch": 4}),
            (
                "distil",
                {"members": 2, "combine": "Distil"},
                {"members": 2, "combine": "Distil", "distil": {"alpha": 0.9}},
            ),
            ("overrides", {"overrides": _SEEDS}, {"overrides": _OTHER_SEEDS}),
            ("combine", {"members": 3}, {"members": 3, "combine": "AverageWeights"}),
            ("minMembers", {"members": 3}, {"members": 3, "minMembers": 2}),
            ("publish", {"members": 3}, {"members": 3, "publish": "Always"}),
        ]
    ),
    Update(
        "no ensemble any more",
        _ensemble(members=3),
        spec(),
        "spec.ensemble cannot be added or removed after creation",
    ),
    Update(
        "no search any more", _search(RATES), spec(), "spec.search cannot be added or removed after creation"
    ),
]
