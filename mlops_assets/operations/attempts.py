"""Which runs have tried to carry a decision out, by the names that release plans know them by."""

from mlops_assets.operations.stores import Stores


def runs_of(stores: Stores, model: str, decided_by: str, decision: str) -> frozenset[str]:
    """Who decides in this attempt, and in those before it for the same decision.

    Parameters
    ----------
    decided_by
        This attempt, such as "run:<id>".
    decision
        Id of the decision that asked for it; empty where none has.
    """
    runs = {f"run:{run}" for one in stores.ledger.of(model).decisions if one.id == decision for run in one.runs}
    return frozenset({decided_by, *runs})
