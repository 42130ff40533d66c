"""Everything one model declares: the values read from its `defs.yaml` or built in Python.

Only declarations and what can be checked from them alone belong here; reading data or fitting anything does not.
"""

from mlops_assets.core.spec.data import FeatureSpec, ImputationSpec, LabelSpec, QualitySpec, SourceSpec
from mlops_assets.core.spec.gates import BaselineGate, ChampionGate, EvaluationSpec, GateSpec, LatencyGate, LimitGate
from mlops_assets.core.spec.model import ModelSpec
from mlops_assets.core.spec.monitoring import ConfirmSpec, MonitoringSpec
from mlops_assets.core.spec.release import ReleaseSpec
from mlops_assets.core.spec.response import ActionModes, FeedSpec, ResponseSpec, ServiceLimits
from mlops_assets.core.spec.training import StepSpec, TrainingSpec
from mlops_assets.core.spec.values import AwareDatetime, Duration, format_duration, import_object

__all__ = [
    "ActionModes",
    "AwareDatetime",
    "BaselineGate",
    "ChampionGate",
    "ConfirmSpec",
    "Duration",
    "EvaluationSpec",
    "FeatureSpec",
    "FeedSpec",
    "GateSpec",
    "ImputationSpec",
    "LabelSpec",
    "LatencyGate",
    "LimitGate",
    "ModelSpec",
    "MonitoringSpec",
    "QualitySpec",
    "ReleaseSpec",
    "ResponseSpec",
    "ServiceLimits",
    "SourceSpec",
    "StepSpec",
    "TrainingSpec",
    "format_duration",
    "import_object",
]
