"""`rollout`: what the UI shows of a trial. Each look at its evidence is a materialisation, which the sensor of rollouts reports."""

import dagster as dg

from mlops_assets.assets.pictures import as_markdown, png
from mlops_assets.core.spec import ModelSpec
from mlops_assets.core.trials.facts import Trial, TrialLooked
from mlops_assets.operations.rollouts.figures import evidence_figure


def rollout_asset(spec: ModelSpec) -> dg.AssetSpec:
    """The asset that looks at trials belong to; nothing executes it."""
    return dg.AssetSpec(
        [spec.name, "rollout"],
        group_name=spec.name,
        owners=[spec.owner],
        description="The last look at the version on trial beside the champion, and what it comes to.",
    )


def tell_of_look(spec: ModelSpec, trial: Trial, looks: tuple[TrialLooked, ...]) -> dg.AssetMaterialization:
    """The last look at a trial, with the evidence of all before it."""
    began, last = trial.began, looks[-1]
    told: dict[str, dg.MetadataValue] = {
        "evidence": as_markdown("evidence", png(evidence_figure(began, looks))),
        "step": dg.MetadataValue.text(last.step),
        "reason": dg.MetadataValue.text(last.reason),
        "stage": dg.MetadataValue.text(last.stage),
        "share": dg.MetadataValue.float(last.share),
        "version": dg.MetadataValue.int(began.version),
        "champion": dg.MetadataValue.int(began.champion),
        "trial": dg.MetadataValue.text(trial.id),
    }
    for name, one in last.looks.items():
        told[name] = dg.MetadataValue.text(one.verdict)
        told[f"{name}_samples"] = dg.MetadataValue.int(one.samples)
        told[f"{name}_against"] = dg.MetadataValue.float(one.against)
    return dg.AssetMaterialization(dg.AssetKey([spec.name, "rollout"]), metadata=told)
